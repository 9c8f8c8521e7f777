"""Where code decides by a name: places in a syntax tree that compare with one, look it up or index by it."""

from __future__ import annotations

import ast
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "cmexport"


@dataclass(frozen=True)
class Count:
    """What to look for, and where not to.

    Attributes:
        names: that count.
        lookups: methods whose first argument is looked up.
        subject: packages whose subject the names are.
        keys: keys of tables count too.
        called: calls of functions with this in their name count by their first argument; "": none.
    """

    names: Collection[str]
    lookups: Collection[str]
    subject: Collection[str]
    keys: bool = False
    called: str = ""

    def decisions(self, tree: ast.AST) -> Iterator[tuple[int, str]]:
        """Line and name of each place."""
        for node in ast.walk(tree):
            match node:
                case ast.Compare(left=left, comparators=others):
                    places = [left, *others]
                case ast.Subscript(slice=place) | ast.MatchValue(value=place):
                    places = [place]
                case ast.Dict(keys=keys) if self.keys:
                    places = [key for key in keys if key is not None]
                case ast.Call(func=ast.Attribute(attr=attribute), args=[first, *_]) if attribute in self.lookups:
                    places = [first]
                case ast.Call(func=ast.Name(id=name), args=[first, *_]) if self.called and self.called in name:
                    places = [first]
                case _:
                    continue
            for place in places:
                parts = place.elts if isinstance(place, ast.Tuple | ast.List | ast.Set) else [place]
                for part in parts:
                    if isinstance(part, ast.Constant) and part.value in self.names:
                        yield node.lineno if hasattr(node, "lineno") else place.lineno, str(part.value)

    def found(self, package: Path = PACKAGE) -> dict[str, list[tuple[int, str]]]:
        """By file."""
        paths = (p.relative_to(package) for p in sorted(package.rglob("*.py")))
        outside = [p for p in paths if p.parts[0] not in self.subject]
        each = {str(p): list(self.decisions(ast.parse((package / p).read_text(encoding="utf-8")))) for p in outside}
        return {path: places for path, places in each.items() if places}

    def show(self) -> None:
        """List them for the package, or the folder on the command line."""
        listed = self.found(Path(sys.argv[1]) if len(sys.argv) > 1 else PACKAGE)
        for path, places in listed.items():
            print(path, ", ".join(f"{line}: {name}" for line, name in places))
        print(len(listed), "files")
