"""merge_affine_norm: one multiply-add per normalization, the norm's own where one row serves all samples."""

from __future__ import annotations

import pytest

from cmexport.graph.fxtools import aten, attribute, shape_of
from cmexport.graph.rewrites import REWRITES
from cmexport.graph.rewriting import apply_rewrites, select
from cmexport.graph.tracing import to_module
from cmexport.model import SampleRequest

CHAIN = select(REWRITES, "share_common,fold_constants,merge_affine_norm,tabulate_labels")


def graph_of(captured, model, **request):
    rewritten = apply_rewrites(captured(model, SampleRequest(**request)), CHAIN)
    return to_module(rewritten.program), {r.name: r for r in rewritten.rewrites}["merge_affine_norm"]


def modulated(model):
    """One normalization per residual block is scaled and shifted by the embedding."""
    return sum(name.endswith("emb_layers.1") for name, _ in model.network.named_modules())


def multiply_adds(module):
    """Full-size products after a normalization."""
    return [
        n
        for n in module.graph.nodes
        if n.target is aten.mul.Tensor and any(a.target is aten.group_norm.default for a in n.all_input_nodes)
    ]


@pytest.mark.parametrize(
    ("fields", "request_"), [({}, {}), ({}, {"label": 4, "batch": 2}), ({"num_classes": None}, {"batch": 2})]
)
def test_one_row_becomes_the_norms_own_affine(adm_model, captured, fields, request_):
    model = adm_model(**fields)
    module, report = graph_of(captured, model, **request_)
    assert report.applied == modulated(model)
    assert multiply_adds(module) == []
    baked = fields or "label" in request_
    for norm in (n for n in module.graph.nodes if n.target is aten.group_norm.default):
        assert shape_of(norm.args[2]) == shape_of(norm.args[3]) == (shape_of(norm)[1],)
        if baked:
            assert attribute(module, norm.args[2]) is not None


def test_rows_that_differ_stay_one_multiply_add(adm_model, captured):
    model = adm_model()
    module, report = graph_of(captured, model, batch=2)
    products = multiply_adds(module)
    assert len(products) == report.applied == modulated(model)
    for product in products:
        norm, scale = product.args
        assert norm.args[2:4] == (None, None)
        assert shape_of(scale) == (2, shape_of(norm)[1], 1, 1)
        (total,) = product.users
        assert total.target is aten.add.Tensor


def test_additive_embeddings_have_nothing_to_merge(adm_model, captured):
    _, report = graph_of(captured, adm_model(channel_mult=(1,), use_scale_shift_norm=False))
    assert (report.applied, report.max_relative_error) == (0, None)
