"""tabulate_labels: with n classes and fixed sigmas, what depends on the label alone becomes a table of n rows.

Every value where the label branch meets the noise branch is computed for all n labels in float64 and laid side by
side in one (n, T) table, gathered once and split. For 10 classes that removes the label embedding and every block's
projection; for 1000 classes such a table would be larger than the weights it replaces, so the branch is cut at its
narrowest waist instead (the shared SiLU of the embedding) and only what lies before it is tabulated.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence

import torch
from torch import Tensor, fx

from cmexport.graph.evaluate import PartialEvaluator
from cmexport.graph.fxtools import Editor, aten, attribute, dependence, shape_of
from cmexport.graph.rewriting import Changes, Rewrite
from cmexport.signature import Input


def _apply(editor: Editor) -> Changes:
    outcomes = [(i.name, _one(editor, i)) for i in editor.signature.listed]
    if len(outcomes) == 1:
        return outcomes[0][1]
    notes = "; ".join(f"{name}: {outcome.note}" for name, outcome in outcomes)
    return Changes(sum(outcome.applied for _, outcome in outcomes), notes or "no label input")


def _one(editor: Editor, choice: Input) -> Changes:
    """All that depends on one input of finitely many values."""
    graph, values = editor.graph, choice.values
    assert values is not None
    classes = len(values)
    alone, depends = {choice.name}, dependence(graph)
    label = next(n for n in graph.nodes if n.op == "placeholder" and n.name == choice.name)
    branch = [n for n in graph.nodes if n.op == "call_function" and depends[n] == alone]
    border = [n for n in branch if any(depends[u] - alone for u in n.users) and _is_tensor(n)]
    batch = shape_of(label)[0]
    if not border or not all(_one_row_per_sample(n, batch) for n in border):
        return Changes(0, "no label branch with one row per sample")

    table_size, replaced = classes * _row_elements(border, batch), _weights_behind(editor.module, border)
    if table_size <= replaced:
        _tabulate(editor, label, border, choice)
        return Changes(len(border), f"{classes} x {_row_elements(border, batch)} table replaces {replaced} weights")
    for waist in reversed(branch):
        if (
            waist in border
            or not _is_tensor(waist)
            or not _one_row_per_sample(waist, batch)
            or not waist.all_input_nodes
        ):
            continue
        if waist.all_input_nodes == [label] or not _separates(label, waist, border):
            continue
        behind = _weights_behind(editor.module, [waist])
        if classes * _row_elements([waist], batch) <= behind:
            _tabulate(editor, label, [waist], choice)
            note = (
                f"a full table of {classes} x {_row_elements(border, batch)} = {table_size} would be larger than the "
                f"{replaced} weights it replaces; tabulated the embedding "
                f"({classes} x {_row_elements([waist], batch)}) only"
            )
            return Changes(1, note)
    return Changes(0, f"a table of {table_size} would be larger than the {replaced} weights it replaces")


def _is_tensor(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), Tensor) and node.meta["val"].is_floating_point()


def _one_row_per_sample(node: fx.Node, batch: int) -> bool:
    return batch == 1 or shape_of(node)[:1] == (batch,)


def _row_elements(nodes: Sequence[fx.Node], batch: int) -> int:
    return sum(math.prod(shape_of(n)) // batch for n in nodes)


def _ancestors(nodes: Sequence[fx.Node]) -> set[fx.Node]:
    """Return the nodes themselves and everything they are computed from."""
    reached: set[fx.Node] = set()
    pending = list(nodes)
    while pending:
        node = pending.pop()
        if node not in reached:
            reached.add(node)
            pending.extend(node.all_input_nodes)
    return reached


def _weights_behind(module: fx.GraphModule, nodes: Sequence[fx.Node]) -> int:
    """Count the stored numbers that only these nodes need."""
    reached = _ancestors(nodes)
    weights = {n.target: attribute(module, n) for n in reached if n.op == "get_attr"}
    outside = {n.target for n in module.graph.nodes if n.op == "get_attr" and any(u not in reached for u in n.users)}
    return sum(t.numel() for name, t in weights.items() if t is not None and name not in outside)


def _separates(label: fx.Node, waist: fx.Node, border: Sequence[fx.Node]) -> bool:
    """Whether every path from the label to the border goes through `waist`."""
    reached: set[fx.Node] = set()
    pending = [label]
    while pending:
        node = pending.pop()
        if node in reached or node is waist:
            continue
        reached.add(node)
        pending.extend(node.users)
    return not reached.intersection(border)


def _tabulate(editor: Editor, label: fx.Node, nodes: Sequence[fx.Node], choice: Input) -> None:
    batch = shape_of(label)[0]
    shared = PartialEvaluator(editor.module, {})
    for constant in _ancestors(nodes):
        if not constant.all_input_nodes and constant is not label:
            shared.value(constant)
    rows = []
    for value in choice.values or ():
        evaluator = shared.extended({label: torch.full((batch,), value, dtype=getattr(torch, choice.dtype))})
        rows.append(torch.cat([_first_row(evaluator.value(n), batch) for n in nodes]))
    order = {n: i for i, n in enumerate(editor.graph.nodes)}
    first = min(nodes, key=order.__getitem__)
    table = editor.constant(first, torch.stack(rows))
    gathered = editor.call(first, aten.embedding.default, table, _row_number(editor, first, label, choice))
    sizes = [math.prod(shape_of(n)) // batch for n in nodes]
    if len(nodes) == 1:
        parts = [gathered]
    else:
        # One sample: split a vector, so that each part already has the (C,) shape a normalization wants.
        axis = 0 if batch == 1 else 1
        source = editor.call(first, aten.reshape.default, gathered, [-1]) if batch == 1 else gathered
        split = editor.call(first, aten.split_with_sizes.default, source, sizes, axis)
        parts = [editor.call(first, operator.getitem, split, index) for index in range(len(nodes))]
    for node, part in zip(nodes, parts, strict=True):
        if shape_of(part) != shape_of(node):
            part = editor.call(first, aten.reshape.default, part, list(shape_of(node)))
        node.replace_all_uses_with(part)


def _row_number(editor: Editor, before: fx.Node, label: fx.Node, choice: Input) -> fx.Node:
    """Return the row of each picture: a class is one already, of numbers the nearest is found."""
    if choice.count is not None:
        return label
    low, *_, high = choice.values or ()
    steps = len(choice.values or ()) - 1
    above = editor.call(before, aten.sub.Tensor, label, low)
    nearest = editor.call(before, aten.round.default, editor.call(before, aten.mul.Tensor, above, steps / (high - low)))
    within = editor.call(before, aten.clamp.default, nearest, 0, steps)
    return editor.call(before, aten._to_copy.default, within, dtype=torch.int64)


def _first_row(value: Tensor, batch: int) -> Tensor:
    return value.reshape(batch, -1)[0].float()


REWRITE = Rewrite("tabulate_labels", "one table row per class for all that depends on the label alone", _apply)
