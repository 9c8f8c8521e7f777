"""Kits of real artefacts: what they say, that the model is unchanged, and what gets none."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cmexport.artifact import read_manifest
from cmexport.errors import CheckpointError, OutputError, ParityError, UsageError
from cmexport.kits import check_kit, make_kit, platform_named
from cmexport.kits.facts import _least_db, kit_of
from cmexport.parity.metrics import as_bytes, psnr_db
from cmexport.sources import draw_pictures, source_from_artifact
from cmexport.tokenizer import calibration_prompts

from .conftest import run

PYTHON = platform_named("python")
GOLDEN = "src/cm_cifar10_kit/golden"


@pytest.fixture(scope="module")
def kit(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_kit(demo, PYTHON, tmp_path_factory.mktemp("kit")).folder


def _files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _changed(artifact: Path, place: Path, change: Callable[[dict], None]) -> Path:
    """A copy of an artefact with another manifest."""
    folder = place / artifact.name
    shutil.copytree(artifact, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_the_model_is_unchanged_and_listed(demo: Path, kit: Path) -> None:
    facts = json.loads((kit / "kit.json").read_text())
    (file,) = facts["files"]
    copied = (kit / "src/cm_cifar10_kit/model" / file["path"]).read_bytes()
    assert copied == (demo / "model.onnx").read_bytes()
    assert hashlib.sha256(copied).hexdigest() == file["sha256"]
    assert kit.name == "cm_cifar10-kit-python"
    assert facts["labels"][8] == "ship"
    assert [i["name"] for i in facts["runs"][0]["inputs"]] == ["noise", "label"]


def test_the_same_artefact_gives_the_same_bytes(demo: Path, kit: Path, tmp_path: Path) -> None:
    assert _files(make_kit(demo, PYTHON, tmp_path).folder) == _files(kit)


def test_golden_pictures_are_those_of_sample(demo: Path, kit: Path) -> None:
    pictures = as_bytes(draw_pictures(source_from_artifact(demo), 4, noise="cmx1"))
    stored = [np.frombuffer((kit / GOLDEN / f"generate-{seed}.rgb").read_bytes(), np.uint8) for seed in range(4)]
    assert all((a.ravel() == b).all() for a, b in zip(pictures, stored, strict=True))


def test_golden_pictures_of_prompts_are_those_of_sample(worded: Path, tmp_path: Path) -> None:
    folder = make_kit(worded, PYTHON, tmp_path).folder
    said = calibration_prompts()[:2]
    pictures = as_bytes(draw_pictures(source_from_artifact(worded), 2, noise="cmx1", prompts=said))
    golden = json.loads((folder / "src/emoji_kit/golden/golden.json").read_text())
    assert [entry["text"] for entry in golden["pictures"][:2]] == list(said)
    for entry, picture in zip(golden["pictures"], pictures, strict=False):
        assert (folder / "src/emoji_kit/golden" / entry["expected"]).read_bytes() == picture.tobytes()


def test_an_editing_run_has_its_picture_and_mask(editing: Path, tmp_path: Path) -> None:
    folder = make_kit(editing, PYTHON, tmp_path).folder / GOLDEN
    entry = next(e for e in json.loads((folder / "golden.json").read_text())["pictures"] if e["run"] == "inpaint")
    shape = entry["height"], entry["width"], entry["channels"]
    bytes_of = {name: np.frombuffer((folder / entry[name]).read_bytes(), np.uint8) for name in ("image", "expected")}
    image, drawn = bytes_of["image"].reshape(shape), bytes_of["expected"].reshape(shape)
    kept = np.frombuffer((folder / entry["mask"]).read_bytes(), np.uint8).reshape(shape[:2])
    assert set(np.unique(kept)) == {0, 255}
    assert (image[kept == 255] == drawn[kept == 255]).all()
    assert (image[kept == 0] != drawn[kept == 0]).any()


def test_names_of_classes_can_be_given(demo: Path, tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("\n".join(f"thing {n}" for n in range(10)))
    assert make_kit(demo, PYTHON, tmp_path, labels=str(names)).kit.labels == tuple(f"thing {n}" for n in range(10))
    names.write_text("one\ntwo")
    with pytest.raises(UsageError, match="2 names, but this model has 10 classes"):
        make_kit(demo, PYTHON, tmp_path / "other", labels=str(names))
    assert not (tmp_path / "other").exists()


def test_classes_without_names_are_numbered(demo: Path, tmp_path: Path) -> None:
    folder = _changed(demo, tmp_path, lambda manifest: manifest.update(labels=None))
    assert kit_of(folder, read_manifest(folder)).labels == tuple(f"class {n}" for n in range(10))


def test_names_for_a_model_without_classes(worded: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="takes no label"):
        make_kit(worded, PYTHON, tmp_path, labels="cifar10")


def test_another_target_is_refused(coreml: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="was exported for Core ML; kits for Python take ONNX"):
        make_kit(coreml, PYTHON, tmp_path)


def test_what_failed_or_was_not_verified_is_refused(demo: Path, tmp_path: Path) -> None:
    unverified = _changed(demo, tmp_path / "a", lambda manifest: manifest.update(parity=None))
    with pytest.raises(UsageError, match="was not verified"):
        make_kit(unverified, PYTHON, tmp_path)
    failed = _changed(demo, tmp_path / "b", lambda manifest: manifest["parity"].update(passed=False))
    with pytest.raises(ParityError, match="failed its parity gate"):
        make_kit(failed, PYTHON, tmp_path)
    rejected = demo.parent / "kept"
    shutil.copytree(demo, tmp_path / "c.rejected")
    with pytest.raises(ParityError, match="failed its parity gate"):
        make_kit(tmp_path / "c.rejected", PYTHON, tmp_path)
    assert not rejected.exists()
    assert not list(tmp_path.glob("*-kit-*"))


def test_a_damaged_artefact_is_refused(demo: Path, tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(demo, folder)
    with (folder / "model.onnx").open("r+b") as file:
        file.seek(1000)
        file.write(b"\0\0\0\0")
    with pytest.raises(CheckpointError, match="changed since it was exported"):
        make_kit(folder, PYTHON, tmp_path)


def test_what_stands_in_the_place_stays(demo: Path, tmp_path: Path) -> None:
    place = tmp_path / "cm_cifar10-kit-python"
    place.mkdir()
    (place / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="something else than a kit"):
        make_kit(demo, PYTHON, tmp_path)
    assert (place / "mine.txt").read_text() == "mine"
    make_kit(demo, PYTHON, tmp_path, overwrite=True)
    assert not (place / "mine.txt").exists()
    # The same artefact's kit may be made again.
    make_kit(demo, PYTHON, tmp_path)


@pytest.mark.parametrize("apart", [1e-4, 1e-3, 0.02, 0.1, 1.0, 5.0])
def test_what_is_asked_of_bytes_is_what_such_floats_become(apart: float) -> None:
    """Pictures as far apart as a file's worst, in levels of 255: their bytes pass, those of thrice as far don't."""
    generator = np.random.default_rng(0)
    levels = generator.uniform(20, 235, 200_000)

    def db(size: float) -> float:
        moved = levels + generator.standard_normal(levels.size) * size
        return psnr_db(4 * float(np.mean((np.rint(levels) - np.rint(moved)) ** 2)) / 255**2)

    least = _least_db(20 * np.log10(255 / apart))
    assert db(apart) >= least
    assert least == 60 or db(3 * apart) < least


def test_check(kit: Path, tmp_path: Path) -> None:
    assert check_kit(kit).name == "cm_cifar10"
    copied = tmp_path / "kit"
    shutil.copytree(kit, copied)
    model = copied / "src/cm_cifar10_kit/model/model.onnx"
    with model.open("r+b") as file:
        file.write(b"\1")
    with pytest.raises(CheckpointError, match="changed since the kit was made"):
        check_kit(copied)
    model.unlink()
    with pytest.raises(CheckpointError, match="its model is missing"):
        check_kit(copied)
    for content in ("{}", "[1", '{"format": 2}'):
        (copied / "kit.json").write_text(content)
        with pytest.raises(CheckpointError, match="damaged"):
            check_kit(copied)
    (copied / "kit.json").unlink()
    with pytest.raises(CheckpointError, match="not a kit"):
        check_kit(copied)


def test_on_the_command_line(demo: Path, tmp_path: Path) -> None:
    code, said = run("kit --platform python --json -o", tmp_path, demo)
    assert code == 0
    facts = json.loads(said[said.index("{") :])
    assert run("kit --check", facts["kit"])[0] == 0
    for arguments, expected in (
        (("kit", demo), "--platform is missing"),
        (("kit --platform toaster", demo), "known are python"),
        (("kit --platform python --check", facts["kit"]), "leave out --platform"),
    ):
        code, said = run(*arguments)
        assert (code, expected in said) == (2, True), said
    code, said = run("kit --platform python", tmp_path / "nothing")
    assert (code, "not an artefact" in said) == (3, True)
