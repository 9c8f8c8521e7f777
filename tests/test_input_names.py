"""What a graph takes is asked of its signature: few places decide by an input's name, and this counts them.

`python tests/test_input_names.py [FOLDER]` lists them.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "cmexport"
NAMES = {"noise", "renoise", "label", "image", "mask", "edited", "tokens", "embeddings", "guidance", "prompt"}
LOOKUPS = {"get", "pop", "setdefault", "takes", "index"}
MOST_FILES = 8


def decisions(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Where a name stands in a comparison, an index, a lookup or a `case`, or in a collection that is compared with."""
    for node in ast.walk(tree):
        match node:
            case ast.Compare(left=left, comparators=others):
                places = [left, *others]
            case ast.Subscript(slice=place) | ast.MatchValue(value=place):
                places = [place]
            case ast.Call(func=ast.Attribute(attr=attribute), args=[first, *_]) if attribute in LOOKUPS:
                places = [first]
            case _:
                continue
        for place in places:
            parts = place.elts if isinstance(place, ast.Tuple | ast.List | ast.Set) else [place]
            for part in parts:
                if isinstance(part, ast.Constant) and part.value in NAMES:
                    yield node.lineno if hasattr(node, "lineno") else place.lineno, str(part.value)


def found(package: Path) -> dict[str, list[tuple[int, str]]]:
    """By file, without the two packages whose subject the names are."""
    paths = (p.relative_to(package) for p in sorted(package.rglob("*.py")))
    outside = [p for p in paths if p.parts[0] not in ("signature", "networks")]
    each = {str(p): list(decisions(ast.parse((package / p).read_text(encoding="utf-8")))) for p in outside}
    return {path: places for path, places in each.items() if places}


def test_the_count_sees_each_form() -> None:
    forms = 'x == "noise"', 'x in ("a", "mask")', 'd["label"]', 'd.get("image", 0)', 'match x:\n case "renoise": pass'
    assert [name for form in forms for _, name in decisions(ast.parse(form))] == [
        "noise",
        "mask",
        "label",
        "image",
        "renoise",
    ]
    assert not list(decisions(ast.parse('f(noise=1); {"label": 2}; "image"')))


def test_few_files_decide_by_the_name_of_an_input() -> None:
    files = found(PACKAGE)
    assert len(files) <= MOST_FILES, files


if __name__ == "__main__":
    listed = found(Path(sys.argv[1]) if len(sys.argv) > 1 else PACKAGE)
    for path, places in listed.items():
        print(path, ", ".join(f"{line}: {name}" for line, name in places))
    print(len(listed), "files")
