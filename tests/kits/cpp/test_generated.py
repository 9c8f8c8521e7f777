"""What is generated for models of all kinds compiles with strict warnings: names, signatures, sample and README."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support import cpp_kits
from support.made_up_kits import RUNS, made_up
from support.readme_code import blocks

from cmexport.kits import platform_named
from cmexport.kits.rendering import render


@pytest.mark.parametrize("runs", RUNS)
def test_it_compiles(runs, tmp_path):
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    for name, content in render(made_up(RUNS[runs]), platform_named("cpp")).items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (cpp,), (c,) = (blocks(tmp_path / "README.md", language) for language in ("cpp", "c"))
    (tmp_path / "app.cpp").write_text(cpp)
    (tmp_path / "app.c").write_text(c)
    flags = ("-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only", f"-I{tmp_path / 'include'}")
    name = "model_2_models"
    sources = [f"src/{name}.cpp", "sample/main.cpp", "app.cpp"]
    cpp_kits.run("g++", "-std=c++17", '-DSAMPLE_MODEL="model"', *flags, *(tmp_path / source for source in sources))
    cpp_kits.run("gcc", "-std=c11", *flags, tmp_path / "app.c")
    # 120 as elsewhere, and a little for what the model is called.
    assert longest(tmp_path) <= 130


def longest(folder: Path) -> int:
    """The longest line of what is generated, tables and lists aside."""
    generated = [*folder.glob("include/model_2_models/*"), folder / "CMakeLists.txt", folder / "sample/main.cpp"]
    return max(len(line) for path in generated for line in path.read_text().splitlines())
