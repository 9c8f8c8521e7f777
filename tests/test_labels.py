"""Names of classes: from files and known sets, through an export, to `sample --label NAME`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

import cmexport
from cmexport.artifact import write_preview
from cmexport.artifact.preview import CAPTION_HEIGHT
from cmexport.errors import CheckpointError, UsageError
from cmexport.labels import KNOWN, named, number_of

NETWORK = f"{Path(__file__).parent / 'artifact' / 'version1' / 'net.py'}:build"
NAMES = ("tench, Tinca tinca", "Crane", "crane")


@pytest.mark.parametrize("text", ["a\nb c\nd\n\n", '["a", "b c", "d"]', "\ufeffa\r\n b c\r\nd", ' [ "a","b c","d"]\n'])
def test_files_of_names(tmp_path: Path, text: str) -> None:
    (tmp_path / "names").write_bytes(text.encode())
    assert named(str(tmp_path / "names"), 3) == ("a", "b c", "d")


def test_cifar10_has_the_data_sets_order() -> None:
    card = (Path(cmexport.__file__).parent / "demo" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert ", ".join(f"{number} {name}" for number, name in enumerate(named("cifar10", 10))) in card


@pytest.mark.parametrize(
    ("content", "classes", "error", "said"),
    [
        (None, 3, UsageError, "neither a file nor a set known by name"),
        (b"a\nb\nc", None, UsageError, "unconditional"),
        (b"a\nb\nc", 4, UsageError, "3 names, but this model has 4 classes"),
        (b"a\n\nc", 3, CheckpointError, "a name for each class"),
        (b'{"0": "a"}', 1, CheckpointError, "a name for each class"),
        (b"[1, 2]", 2, CheckpointError, "a name for each class"),
        (b"[", 2, CheckpointError, "neither lines"),
        (b"\xff\xfe", 2, CheckpointError, "neither lines"),
    ],
)
def test_names_that_do_not_fit_are_refused(tmp_path: Path, content, classes, error, said) -> None:
    if content is not None:
        (tmp_path / "names").write_bytes(content)
    with pytest.raises(error, match=said) as caught:
        named(tmp_path / "names", classes)
    assert "names" in str(caught.value)


def test_a_class_by_number_or_name() -> None:
    assert [number_of(label, NAMES) for label in (1, "2", "tench", "TINCA tinca", "tench, tinca tinca")] == [
        1,
        2,
        0,
        0,
        0,
    ]
    for label, said in (("crane", "classes 1, 2; give the number"), ("cat", "no class of that name")):
        with pytest.raises(UsageError, match=said):
            number_of(label, NAMES, 3)
    with pytest.raises(UsageError, match="no names; give a number 0 to 2"):
        number_of("cat", (), 3)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> cmexport.Artifact:
    out = tmp_path_factory.mktemp("labels")
    return cmexport.export(cmexport.load(NETWORK), labels=["cat", "dog", "ship"], seeds=8, out=out)


def test_an_artefact_knows_its_names(artifact: cmexport.Artifact) -> None:
    assert json.loads((artifact.folder / "manifest.json").read_text())["labels"] == ["cat", "dog", "ship"]
    facts = {p.key: p.value for p in onnx.load(artifact.folder / "model.onnx").metadata_props}
    assert json.loads(facts["cmexport.labels"]) == ["cat", "dog", "ship"]
    np.testing.assert_array_equal(artifact.sample(label="Ship"), artifact.sample(label=2))
    assert not np.array_equal(artifact.sample(label="dog"), artifact.sample(label=2))
    with pytest.raises(UsageError, match='label="plane": no class of that name; give a number 0 to 2, or one of cat'):
        artifact.sample(label="plane")


def test_a_class_is_baked_in_by_its_name(artifact: cmexport.Artifact, tmp_path: Path) -> None:
    model = cmexport.load(NETWORK)
    baked = cmexport.export(model, labels=["cat", "dog", "ship"], label="dog", seeds=8, out=tmp_path)
    assert baked.manifest.label == 1
    np.testing.assert_allclose(baked.sample(seed=3), artifact.sample(seed=3, label=1), atol=1e-5)
    with pytest.raises(UsageError, match="2 names, but this model has 3"):
        cmexport.export(model, labels=["cat", "dog"], out=tmp_path)


def test_the_command_line_takes_and_shows_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from cmexport.cli.main import main

    (tmp_path / "names.txt").write_text("cat\ndog\nship\n")
    export = ["onnx", NETWORK, "-o", str(tmp_path), "--seeds", "8", "--labels"]
    assert main([*export, str(tmp_path / "names.txt")]) == 0
    folder, y = str(tmp_path / "net-onnx-fp32"), str(tmp_path / "y.npz")
    assert main(["sample", folder, "--label", "dog", "--count", "1", "--save", y]) == 0
    np.testing.assert_array_equal(np.load(y)["image"], cmexport.open(folder).sample(label=1))
    capsys.readouterr()
    assert main(["inspect", folder]) == 0
    shown = capsys.readouterr().out
    assert "classes 0 cat, 1 dog, 2 ship" in " ".join(shown.split())
    assert "license unknown (no license in README.md or MODEL_CARD.md beside it)" in shown
    assert main(["sample", folder, "--label", "car", "--save", y]) == 2
    assert "no class of that name" in capsys.readouterr().err
    assert main([*export, "cifar10"]) == 2
    assert "10 names, but this model has 3 classes" in capsys.readouterr().err


def test_the_demo_knows_its_own() -> None:
    model = cmexport.load()
    assert model.labels == KNOWN["cifar10"]
    assert model.source.license == "mit"
    assert model.source.license_origin == "MODEL_CARD.md"


def test_previews_have_the_names_below(tmp_path: Path) -> None:
    pictures = np.zeros((5, 3, 8, 8), np.float32)
    write_preview(tmp_path / "plain.png", pictures, pictures)
    write_preview(tmp_path / "named.png", pictures, pictures, names=("cat", "dog"))
    plain, shown = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in ("plain", "named"))
    np.testing.assert_array_equal(shown[: len(plain)], plain)
    row = shown[len(plain) :]
    assert row.shape == (CAPTION_HEIGHT, plain.shape[1], 3)
    each = (plain.shape[1] - 4) // 5
    columns = [row[:, i * each : (i + 1) * each] for i in range(5)]
    assert all(np.array_equal(columns[i], columns[i % 2]) for i in range(5))
    assert not np.array_equal(columns[0], columns[1])
