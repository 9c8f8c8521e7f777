"""What a target is and can do is asked of its `TargetInfo`: few places decide by a target's name, and this counts them.

`python tests/test_target_names.py [FOLDER]` lists them.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "cmexport"
# Not asked of the registry: the count is to work on other checkouts too.
NAMES = {"onnx", "coreml", "coreai", "tensorrt"}
LOOKUPS = {"get", "pop", "setdefault", "index", "startswith", "endswith"}
# ONNX Runtime has an execution provider of that name.
MOST_FILES = 1


def decisions(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Where a name is compared with, looked up, a key of a table, one of a `Literal`, or given to a registry."""
    for node in ast.walk(tree):
        match node:
            case ast.Compare(left=left, comparators=others):
                places = [left, *others]
            case ast.Subscript(slice=place) | ast.MatchValue(value=place):
                places = [place]
            case ast.Dict(keys=keys):
                places = [key for key in keys if key is not None]
            case ast.Call(func=ast.Attribute(attr=attribute), args=[first, *_]) if attribute in LOOKUPS:
                places = [first]
            case ast.Call(func=ast.Name(id=called), args=[first, *_]) if "target" in called:
                places = [first]
            case _:
                continue
        for place in places:
            parts = place.elts if isinstance(place, ast.Tuple | ast.List | ast.Set) else [place]
            for part in parts:
                if isinstance(part, ast.Constant) and part.value in NAMES:
                    yield node.lineno if hasattr(node, "lineno") else place.lineno, str(part.value)


def found(package: Path) -> dict[str, list[tuple[int, str]]]:
    """By file, without the package whose subject the names are."""
    paths = (p.relative_to(package) for p in sorted(package.rglob("*.py")))
    outside = [p for p in paths if p.parts[0] != "targets"]
    each = {str(p): list(decisions(ast.parse((package / p).read_text(encoding="utf-8")))) for p in outside}
    return {path: places for path, places in each.items() if places}


def test_the_count_sees_each_form() -> None:
    forms = (
        'x == "onnx"',
        'x in ("a", "coreml")',
        'd["coreai"]',
        'd.get("tensorrt", 0)',
        '{"onnx": 1}',
        'Literal["coreml", "a"]',
        'target_named("coreai")',
        'match x:\n case "tensorrt": pass',
    )
    named = [name for form in forms for _, name in decisions(ast.parse(form))]
    assert named == ["onnx", "coreml", "coreai", "tensorrt"] * 2
    assert not list(decisions(ast.parse('f("onnx"); x = "coreml"; import_module("onnx")')))


def test_few_files_decide_by_the_name_of_a_target() -> None:
    files = found(PACKAGE)
    assert len(files) <= MOST_FILES, files


if __name__ == "__main__":
    listed = found(Path(sys.argv[1]) if len(sys.argv) > 1 else PACKAGE)
    for path, places in listed.items():
        print(path, ", ".join(f"{line}: {name}" for line, name in places))
    print(len(listed), "files")
