"""tabulate_labels: the table's shape and content, and the decision when it would be too large."""

from __future__ import annotations

import copy

import pytest
import torch

from cmexport.graph.fxtools import aten, attribute
from cmexport.graph.rewrites import REWRITES
from cmexport.graph.rewriting import apply_rewrites, select
from cmexport.graph.tracing import to_module
from cmexport.model import SampleRequest

BEFORE = select(REWRITES, "share_common,fold_constants,merge_affine_norm,tabulate_labels")


def rewritten(captured, model, **request):
    graph = apply_rewrites(captured(model, SampleRequest(**request)), BEFORE)
    return to_module(graph.program), {r.name: r for r in graph.rewrites}["tabulate_labels"]


def tables(module):
    return [attribute(module, n.args[0]) for n in module.graph.nodes if n.target is aten.embedding.default]


def scale_shift_channels(model):
    return sum(m.out_features for name, m in model.network.named_modules() if name.endswith("emb_layers.1"))


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("classes", [2, 10])
def test_one_table_of_one_row_per_class(adm_model, captured, classes, batch):
    model = adm_model(num_classes=classes)
    module, report = rewritten(captured, model, batch=batch)
    (table,) = tables(module)
    assert table.shape == (classes, scale_shift_channels(model))
    assert not [n for n in module.graph.nodes if n.target is aten.linear.default]
    replaced = report.parameters_removed + table.numel()
    assert report.note == f"{classes} x {table.shape[1]} table replaces {replaced} weights"


def test_two_steps_share_one_table(adm_model, captured):
    model = adm_model()
    module, _ = rewritten(captured, model, sigmas=(80.0, 1.38))
    (table,) = tables(module)
    assert table.shape == (10, 2 * scale_shift_channels(model))


def test_rows_are_merged_scales_and_shifts(adm_model, captured):
    """Row 7 holds gamma (1 + scale) and beta (1 + scale) + shift of label 7, here from the first block itself."""
    model = adm_model()
    module, _ = rewritten(captured, model)
    (table,) = tables(module)
    network = copy.deepcopy(model.network).double()
    block = network.input_blocks[1][0]
    embedding = network.embed(torch.tensor([1095.5066587], dtype=torch.float64), torch.tensor([7]), torch.float64)
    scale, shift = block.project(embedding)[0].chunk(2)
    norm = block.out_layers[0]
    row = table[7].double()
    for part in (norm.weight * (1 + scale), norm.bias * (1 + scale) + shift):
        windows = row.unfold(0, len(part), 1)
        assert (windows - part).abs().amax(dim=1).min() < 1e-5


def test_a_thousand_classes_keep_the_projections(adm_model, captured):
    """A table of 1000 x 1024 would hold 1.02 M numbers in place of 0.26 M weights: only the embedding is tabulated."""
    model = adm_model(num_classes=1000)
    module, report = rewritten(captured, model)
    width = scale_shift_channels(model)
    (table,) = tables(module)
    assert table.shape == (1000, 128)
    projections = [n for n in module.graph.nodes if n.target is aten.linear.default]
    assert len(projections) == sum(name.endswith("emb_layers.1") for name, _ in model.network.named_modules())
    assert report.applied == 1
    # The embedding of the label plus the fixed row of the time embedding became one table.
    assert report.parameters_removed == 128
    assert f"a full table of 1000 x {width} = {1000 * width} would be larger than the " in report.note
    assert report.note.endswith("tabulated the embedding (1000 x 128) only")


def test_nothing_to_do_without_a_label(adm_model, captured):
    for fields, request in (({"num_classes": None}, {}), ({}, {"label": 3})):
        module, report = rewritten(captured, adm_model(channel_mult=(1,), **fields), **request)
        assert tables(module) == []
        assert (report.applied, report.note, report.max_relative_error) == (0, "no label input", None)
