"""Scripts outside the package name nothing that has moved: mypy does not read them, and some run on other machines."""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted(p for folder in ("bench_device", "benchmarks", "examples") for p in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_what_a_script_takes_from_the_package_is_there(script) -> None:
    for node in ast.walk(ast.parse(script.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "cmexport":
            module = import_module(str(node.module))
            for name in node.names:
                assert hasattr(module, name.name), f"line {node.lineno}: {node.module} has no {name.name}"
