"""Mistakes that a kit's own tests must catch: the kit is built, broken in one place, and built again."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import cpp_kits


@pytest.fixture(scope="module")
def built(kit, editing, release, tmp_path_factory) -> tuple[Path, Path]:
    """A copy of the kit with two runs and where it is built; each test leaves it as it was."""
    folder = shutil.copytree(kit(editing), tmp_path_factory.mktemp("mutated") / kit(editing).name)
    build = tmp_path_factory.mktemp("mutations")
    cpp_kits.configured(folder, build, release, "-DCMAKE_BUILD_TYPE=Debug")
    cpp_kits.make(build, "noise_test", "picture_test", "generator_test", "cm_cifar10_sample")
    for name in ("noise_test", "picture_test", "generator_test"):
        cpp_kits.run(build / name)
    return folder, build


@pytest.fixture
def mutate(built) -> Iterator:
    """Replace something in a file of the kit and build again; it is put back afterwards."""
    folder, build = built
    before: dict[Path, bytes] = {}

    def change(name: str, right: str, wrong: str, program: str) -> Path:
        path = folder / name
        before[path] = path.read_bytes()
        source = before[path].decode()
        assert source.count(right) == 1, right
        path.write_text(source.replace(right, wrong))
        cpp_kits.make(build, program)
        return build / program

    yield change
    for path, content in before.items():
        path.write_bytes(content)


MUTATIONS = {
    "red and blue": (
        "src/picture.cpp",
        "picture.bytes[i * planes + plane] =",
        "picture.bytes[i * planes + planes - 1 - plane] =",
    ),
    "height and width": (
        "src/picture.cpp",
        "byte_of(values[plane * pixels + i])",
        "byte_of(values[plane * pixels + i % picture.width * picture.height + i / picture.width])",
    ),
    "mask": ("src/picture.cpp", "byte >= 128 ? 1.0F : 0.0F", "byte >= 128 ? 0.0F : 1.0F"),
    "streams of Philox": ("src/noise.cpp", "stream, 0}, key0", "0, stream}, key0"),
    "streams of inputs": ("src/engine.cpp", "first ? 0 : k + 1", "first ? 1 : k"),
    "no hash": ("src/engine.cpp", "found != file.sha256", "found.empty()"),
}
# The program that must catch it.
CATCHES = {"src/picture.cpp": "picture_test", "src/noise.cpp": "noise_test", "src/engine.cpp": "generator_test"}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_the_kits_tests_catch(mutate, mutation):
    name, right, wrong = MUTATIONS[mutation]
    said = cpp_kits.run(mutate(name, right, wrong, CATCHES[name]), code=1)
    assert "_test.cpp:" in said or "dB from the stored picture" in said


def test_golden_pictures_catch_a_mask_that_is_inverted(mutate):
    """Also where its bytes are copied as they should."""
    said = cpp_kits.run(mutate(*MUTATIONS["mask"], "generator_test"), code=1)
    assert "inpaint with seed 0 is" in said


def test_one_byte_of_the_model_changed(built):
    folder, build = built
    model = folder / "model/generate.onnx"
    before = model.read_bytes()
    middle = len(before) // 2
    try:
        model.write_bytes(before[:middle] + bytes([before[middle] ^ 1]) + before[middle + 1 :])
        said = cpp_kits.run(build / "sample", "ship", 7, build / "picture.png", code=1)
        assert "generate.onnx: is not the kit's file (SHA-256 " in said
        cpp_kits.run(build / "generator_test", code=1)
    finally:
        model.write_bytes(before)


def test_products_fused_with_sums(kit, demo, release, tmp_path):
    """As compilers do it for processors that can, unless they are told not to: two words tell."""
    if " fma " not in Path("/proc/cpuinfo").read_text():
        pytest.skip("no processor that fuses products with sums")
    sources = [cpp_kits.TEMPLATES / f"src/{name}.cpp" for name in ("noise", "json", "files", "utf8", "sha256")]
    sources.append(cpp_kits.TEMPLATES / "tests/noise_test.cpp")
    kit_folder = f'-DKIT_FOLDER="{kit(demo)}"'
    flags = ("-O2", "-mfma", kit_folder)
    cpp_kits.run(cpp_kits.compiled(tmp_path / "right", sources, *flags, "-ffp-contract=off"))
    said = cpp_kits.run(cpp_kits.compiled(tmp_path / "fused", sources, *flags, "-ffp-contract=fast"), code=1)
    assert said.count("bits(cmkit::normal(word_of(one") == 2
    assert "-ffp-contract=off" in (kit(demo) / "CMakeLists.txt").read_text()
