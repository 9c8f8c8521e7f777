"""The Android kit: compiled against Android's classes, its own tests and the README's code run on Linux."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from cmexport import noise
from cmexport.kits import make_kit, platform_named
from cmexport.kits.platforms.android import string

from .conftest import TOOLS, Built
from .mutations import MUTATIONS, OF_THE_ENGINE

ANDROID = platform_named("android")

# Two exports and twenty compilations come first: 100 s of one core.
pytestmark = pytest.mark.timeout(900)

JOBS = ("library", "tests", "sample-first", "sample-second", "manual", "bench", "prompts", "edits", "plain")


@pytest.mark.parametrize("job", [*JOBS, *MUTATIONS, *OF_THE_ENGINE])
def test_it_compiles_against_android_without_a_warning(built: Built, job: str) -> None:
    assert built.complaints(job) == ""


def test_what_android_lacks_does_not_compile(built: Built) -> None:
    said = built.complaints("wrong")
    for name in ("http", "creatBitmap", "ModelStore"):
        assert re.search(rf"error: .*'?{name}", said), said


# What the second model shares with the first is tested once: each of its pictures takes a second.
_WORDED = ("goldenPictures", "aSeedIsAPicture", "cancel")


@pytest.mark.parametrize(
    "tests",
    [
        ("NoiseTest", "PicturesTest", "BitmapsTest"),
        ("cm_cifar10.GeneratorTest",),
        ("emoji.TokenizerTest", *(f"emoji.GeneratorTest#{test}" for test in _WORDED)),
    ],
    ids=("parts", "cm_cifar10", "emoji"),
)
def test_its_own_tests_pass(built: Built, tests: tuple[str, ...]) -> None:
    ran = built.test(*tests)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize("name", MUTATIONS)
def test_its_own_tests_catch(built: Built, name: str) -> None:
    ran = built.test(MUTATIONS[name].caught_by, before=[built.folder / name])
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert "1 run, 1 failed" in ran.stdout, ran.stdout


def test_pictures_are_those_of_the_artefact(built: Built, tmp_path: Path) -> None:
    """Another ONNX Runtime, 1.17 in place of the newest: hardly a byte is off by one, none by two, no kept one."""
    ran = built.run("dev.cmexport.kit.CompareKt", "src/main/assets", tmp_path)
    lines = [line.split() for line in ran.stdout.splitlines()]
    assert [line[0] for line in lines] == ["generate"] * 4 + ["inpaint"] * 4, ran.stderr
    assert min(float(line[1]) for line in lines) >= 80
    assert sum(int(line[2]) for line in lines) <= 1e-4 * len(lines) * 3072
    assert [line[3:] for line in lines] == [["0", "0"]] * 8


def test_single_words_all_over(built: Built) -> None:
    ran = built.run("dev.cmexport.kit.WordsKt", 4099)
    values = noise.normal(np.arange(0, 2**32, 4099, dtype=np.uint64)).view(np.uint32)
    expected = 2166136261
    for value in values.tolist():
        expected = (expected ^ value) * 16777619 & 0xFFFFFFFF
    assert ran.stdout.strip() == f"{expected:08x}", ran.stderr


def test_runs_leave_nothing_behind(built: Built, tmp_path: Path) -> None:
    """200 runs with 786 kB in and out: one tensor left open would be 157 MB, as the second program shows."""
    border = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, (1, 3, 256, 256)) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", border[:1], border[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), tmp_path / "m.onnx")
    ran = built.run("dev.cmexport.kit.GrowthKt", tmp_path / "m.onnx")
    assert float(ran.stdout) < 30, ran.stderr
    ran = built.run("dev.cmexport.kit.GrowthKt", tmp_path / "m.onnx", before=[built.folder / "leak"])
    assert float(ran.stdout) > 100, ran.stderr


def test_a_running_picture_is_stopped(built: Built, tmp_path: Path) -> None:
    """The second program's engine passes no wish on: what had begun ends with its picture."""
    ran = built.run("dev.cmexport.kit.CancelKt", "src/main/assets", tmp_path)
    assert [line.rpartition("$")[2].split(":")[0] for line in ran.stdout.splitlines()] == ["Cancelled"] * 5, ran.stderr
    ran = built.run("dev.cmexport.kit.CancelKt", "src/main/assets", tmp_path, before=[built.folder / "deaf"])
    assert "picture" in ran.stdout, ran.stderr


@pytest.mark.parametrize(
    ("name", "printed"), [("cm_cifar10", "32 x 32, 32 x 32"), ("emoji", "128 x 128, 3 x 2, 3 x 2")]
)
def test_the_manuals_code_runs(built: Built, tmp_path: Path, name: str, printed: str) -> None:
    title = name[0].upper() + name[1:]
    ran = built.run(f"manual.{name}.{title}Kt", "src/main/assets", tmp_path)
    assert ran.stdout.splitlines()[-1:] == [printed], ran.stdout + ran.stderr
    assert "worst of" in ran.stdout


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ('a "b"\\', '"a \\"b\\"\\\\"'),
        ("$x ${y}", '"\\$x \\${y}"'),
        ("\f\n", '"\\u000c\\n"'),
        ("é", '"\\u00e9"'),
        ("\\f", '"\\\\f"'),
    ],
)
def test_text_in_kotlin(text: str, written: str) -> None:
    assert string(text) == written


def test_the_same_artefact_gives_the_same_bytes(worded: Path, tmp_path: Path) -> None:
    first, second = (make_kit(worded, ANDROID, tmp_path / name).folder for name in ("a", "b"))
    files = {path.relative_to(first): path.read_bytes() for path in first.rglob("*") if path.is_file()}
    assert files == {path.relative_to(second): path.read_bytes() for path in second.rglob("*") if path.is_file()}


def test_its_code_is_small(built: Built) -> None:
    """All sources, without tests and pictures."""
    sources = [path for path in built.kit.rglob("*.kt") if "test" not in path.parts and "emoji" not in path.parts]
    assert sum(path.stat().st_size for path in sources) < 60_000


@pytest.mark.skipif(shutil.which("aapt") is None, reason="no aapt: make system")
@pytest.mark.parametrize("manifest", ["sample/src/main/AndroidManifest.xml", "kit/src/main/AndroidManifest.xml"])
def test_manifests_are_packed(built: Built, tmp_path: Path, manifest: str) -> None:
    # Gradle puts the name of the package in.
    text = (built.kit / manifest).read_text().replace("<manifest", '<manifest package="dev.cmexport.sample"', 1)
    (tmp_path / "AndroidManifest.xml").write_text(text)
    android = TOOLS / "jars/android-23.jar"
    command = [
        "aapt",
        "package",
        "-f",
        "-M",
        tmp_path / "AndroidManifest.xml",
        "-I",
        android,
        "-F",
        tmp_path / "app.apk",
    ]
    packed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert packed.returncode == 0, packed.stderr
