"""The README of a kit, word for word: its commands in a fresh folder, its code in an app beside it."""

from __future__ import annotations

import shutil

import pytest
from PIL import Image
from support import cpp_kits
from support.readme_code import blocks

SIZES = {"demo": (32, 32), "worded": (128, 128)}


@pytest.mark.parametrize("name", SIZES)
def test_commands_and_code(kit, artifact, release, tmp_path, name):
    folder = shutil.copytree(kit(artifact(name)), tmp_path / kit(artifact(name)).name)
    first, tests = blocks(folder / "README.md", "sh")
    cpp_kits.run("bash", "-euo", "pipefail", "-c", first, folder=folder, ONNXRUNTIME_ROOT=str(release))
    with Image.open(folder / "picture.png") as picture:
        picture.load()
        assert (picture.size, picture.mode) == (SIZES[name], "RGB")
        assert len(picture.getcolors(20_000)) > 100
    assert "ctest" in tests
    if name == "demo":
        said = cpp_kits.run("bash", "-euo", "pipefail", "-c", tests, folder=folder)
        assert "100% tests passed" in said


@pytest.mark.parametrize("name", ["editing", "worded"])
def test_an_app(kit, artifact, release, tmp_path, name):
    folder = kit(artifact(name))
    (cmake,), (cpp,), (c,) = (blocks(folder / "README.md", language) for language in ("cmake", "cpp", "c"))
    target = folder.name.removesuffix("-kit-cpp")
    in_c = f"add_executable(in_c in_c.c)\ntarget_link_libraries(in_c PRIVATE {target})\n"
    strict = "add_compile_options(-Wall -Wextra -Werror)\n"
    app = tmp_path / "app"
    app.mkdir()
    (app / "CMakeLists.txt").write_text(cmake.replace("add_executable(", strict + "add_executable(") + in_c)
    (app / "app.cpp").write_text(cpp)
    (app / "in_c.c").write_text(c)
    build = app / "build"
    options = (f"-DKIT={folder}", "-DCMAKE_BUILD_TYPE=Debug")
    cpp_kits.run("cmake", "-S", app, "-B", build, *options, ONNXRUNTIME_ROOT=str(release))
    cpp_kits.make(build, "app", "in_c")
    said = cpp_kits.run(build / "app", folder)
    assert "dB" in said
    assert "bytes of RGBA" in said
    assert ("generator.edit(" in cpp) == (name == "editing")
    cpp_kits.run(build / "in_c", folder / "model")
    assert "is missing; copy the model's folder again" in cpp_kits.run(build / "in_c", app, code=1)
    assert "is missing" in cpp_kits.run(build / "app", app, code=1)
