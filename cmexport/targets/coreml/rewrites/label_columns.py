"""label_columns: the row that a label picks from the table becomes (N, T, 1, 1) once, before it is split.

`tabulate_labels` lays all that depends on the label side by side in one table. Its parts are added to and multiplied
with pictures, so each needs the shape (N, C, 1, 1): 42 reshapes for the demo model's 42 parts, or one before the split.
"""

from __future__ import annotations

import operator

from torch import fx

from cmexport.graph.fxtools import Editor, aten, is_op, shape_of
from cmexport.graph.rewriting import Changes, Rewrite

# Operators that keep the order of elements.
RESHAPES = (aten.reshape.default, aten.view.default, aten.unsqueeze.default)


def _apply(editor: Editor) -> Changes:
    lookups = [n for n in list(editor.graph.nodes) if is_op(n, aten.embedding.default)]
    return Changes(sum(_columns(editor, n) for n in lookups))


def _columns(editor: Editor, lookup: fx.Node) -> bool:
    if len(shape_of(lookup)) != 2:
        return False  # Words of a prompt: rows (N, T, D).
    batch, width = shape_of(lookup)
    row = _only_user(lookup)
    split = _only_user(row) if is_op(row, *RESHAPES) and row is not None else row
    if split is None or not is_op(split, aten.split_with_sizes.default):
        return False
    columns = [(part, _columns_of(part, (batch, shape_of(part)[-1], 1, 1))) for part in split.users]
    if any(found is None for _, found in columns):
        return False
    column = editor.call(split, aten.reshape.default, lookup, [batch, width, 1, 1])
    parts = editor.call(split, aten.split_with_sizes.default, column, split.args[1], 1)
    for part, found in columns:
        for node in found or ():
            node.replace_all_uses_with(editor.call(split, operator.getitem, parts, part.args[1]))
    return True


def _only_user(node: fx.Node | None) -> fx.Node | None:
    users = list(node.users) if node is not None else []
    return users[0] if len(users) == 1 else None


def _columns_of(part: fx.Node, column: tuple[int, ...]) -> list[fx.Node] | None:
    """The reshapes that make a column of a part, directly or after other reshapes; None if it has other uses."""
    found: list[fx.Node] = []
    for user in part.users:
        if not is_op(user, *RESHAPES):
            return None
        deeper = [user] if shape_of(user) == column else _columns_of(user, column)
        if deeper is None:
            return None
        found.extend(deeper)
    return found


REWRITE = Rewrite("label_columns", "the label's row shaped once for all that it is split into", _apply)
