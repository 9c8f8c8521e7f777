"""The quick part of the suite: what it leaves out exists, and it touches every package."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "cmexport"
LINES = [line for line in (TESTS / "slow.txt").read_text().splitlines() if line and not line.startswith("#")]


def functions(file: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.FunctionDef)}


def test_every_line_names_a_test_or_a_fixture() -> None:
    assert len(set(LINES)) == len(LINES)
    for line in LINES:
        file, _, name = line.replace("@", "::").partition("::")
        assert (TESTS.parent / file).is_file(), line
        assert not name or name in functions(TESTS.parent / file), line
        assert "::" not in line or name.startswith("test_"), line


@pytest.mark.parametrize(
    "package", sorted(p.parent.name for p in PACKAGE.glob("*/__init__.py") if p.parent.name != "demo")
)
def test_every_package_has_tests_that_stay_in(package) -> None:
    stay = [
        f"{file.name}::{name}"
        for file in (TESTS / package).rglob("test_*.py")
        for name in functions(file)
        if name.startswith("test_") and f"tests/{file.relative_to(TESTS).as_posix()}::{name}" not in LINES
    ]
    assert len(stay) >= 3
