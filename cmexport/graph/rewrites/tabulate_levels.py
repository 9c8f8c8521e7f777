"""tabulate_levels: in a loop's body, what depends on the noise level alone becomes a table of one row per level.

`fold_constants` evaluates the time branch where each level has a copy of the network. In a loop the level is an input;
the sinusoid (c_noise = 1095.5 at sigma 80), the time MLP and, for unconditional networks, every block's projection are
computed for each level in float64 and looked up.
"""

from __future__ import annotations

import operator
from functools import partial

import torch
from torch import Tensor, fx

from cmexport.graph.evaluate import PartialEvaluator
from cmexport.graph.fxtools import Editor, aten, dependence, shape_of
from cmexport.graph.rewriting import Changes, Rewrite


def rewrite(name: str, levels: int) -> Rewrite:
    """Return the rewrite for a graph whose input `name`, (1,) int64, counts `levels` levels."""
    return Rewrite(
        "tabulate_levels",
        "one table row per noise level for all that depends on the level alone",
        partial(_tabulate, name=name, levels=levels),
    )


def _tabulate(editor: Editor, name: str, levels: int) -> Changes:
    graph = editor.graph
    level = next(n for n in graph.nodes if n.op == "placeholder" and n.name == name)
    alone, depends = {name}, dependence(graph)
    branch = [n for n in graph.nodes if n is not level and depends[n] == alone and _is_float(n)]
    border = [n for n in branch if any(depends[u] - alone for u in n.users)]
    if not border:
        return Changes(0, "nothing depends on the level alone")
    rows = [_row(editor, level, border, index) for index in range(levels)]
    # Pictures of a batch share their level: a time step expanded to the batch is one row.
    shapes = [_shortest([row[i] for row in rows]) for i in range(len(border))]
    table = torch.stack(
        [torch.cat([v.narrow(0, 0, s[0]).reshape(-1) for v, s in zip(r, shapes, strict=True)]) for r in rows]
    )
    order = {n: i for i, n in enumerate(graph.nodes)}
    first = min(border, key=order.__getitem__)
    looked_up = editor.call(first, aten.embedding.default, editor.constant(first, table), level)
    flat = editor.call(first, aten.reshape.default, looked_up, [-1])
    parts = editor.call(first, aten.split_with_sizes.default, flat, [s.numel() for s in shapes])
    for index, (node, shape) in enumerate(zip(border, shapes, strict=True)):
        part = editor.call(first, operator.getitem, parts, index)
        part = editor.call(first, aten.reshape.default, part, list(shape))
        if shape != shape_of(node):
            part = editor.call(first, aten.expand.default, part, list(shape_of(node)))
        node.replace_all_uses_with(part)
    return Changes(len(border), f"{levels} x {table.shape[1]} table")


def _is_float(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.is_floating_point() and value.dim() > 0


def _row(editor: Editor, level: fx.Node, border: list[fx.Node], index: int) -> list[Tensor]:
    evaluator = PartialEvaluator(editor.module, {level: torch.tensor([index])})
    return [evaluator.value(node) for node in border]


def _shortest(values: list[Tensor]) -> torch.Size:
    shape = values[0].shape
    equal = all(bool((v == v[:1]).all()) for v in values)
    return torch.Size((1, *shape[1:])) if equal and len(shape) > 1 else shape
