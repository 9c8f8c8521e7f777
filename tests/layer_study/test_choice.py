"""Sums of errors by hand, the order of moving, and which layers belong to an attention."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cmexport.checkpoints import load_checkpoint
from cmexport.graph.tracing import to_module, trace
from cmexport.layer_study.choice import attention_nodes, choose, default_plan, predict, ranked
from cmexport.layer_study.scoring import captured_graph
from cmexport.model import SampleRequest
from cmexport.quantize.layer_scores import KindScore, LayerScores
from cmexport.quantize.layers import find_layers
from cmexport.quantize.precision_plan import FLOAT, INT8, PrecisionPlan


def scores(*errors):
    half = tuple(e / 2 for e in errors)
    return LayerScores(
        weights=KindScore(squared_errors=half, ssim=1),
        activations=KindScore(squared_errors=half, ssim=1),
        both=KindScore(squared_errors=errors, ssim=0.5),
    )


THREE = {"a": scores(1e-5, 3e-5), "b": scores(4e-5, 0.0), "c": scores(1e-6, 2e-6)}


def test_errors_add_picture_by_picture():
    found = predict(THREE.values())
    each = [10 * math.log10(4 / 5.1e-5), 10 * math.log10(4 / 3.2e-5)]
    assert found.mean_db == pytest.approx(sum(each) / 2)
    assert found.worst_db == pytest.approx(min(each))
    assert predict([]) is None


def test_the_worst_layers_in_8_bits_go_first_and_only_as_far_as_needed():
    plan = PrecisionPlan({"a": INT8, "b": INT8, "c": INT8})
    # a and b have the same mean: the first stays first.
    assert ranked(THREE) == ["a", "b", "c"]
    assert choose(plan, THREE, None).moved == ()
    assert choose(plan, THREE, 49.0).moved == ()
    assert choose(plan, THREE, 52.0).moved == ("a",)
    found = choose(plan, THREE, 60.0)
    assert found.moved == ("a", "b")
    assert found.plan.layers == {"a": FLOAT, "b": FLOAT, "c": INT8}
    assert found.predicted == predict([THREE["c"]])
    assert "float for --keep-db 60" in found.plan.notes["b"]
    assert "alone 64.5 dB" in found.plan.notes["c"]
    assert "keep-db" not in found.plan.notes["c"]
    everything = choose(plan, THREE, 500.0)
    assert set(everything.plan.layers.values()) == {FLOAT}
    assert everything.predicted is None
    # A layer in float already is not moved, however bad it is.
    assert choose(PrecisionPlan({"a": FLOAT, "b": INT8, "c": INT8}), THREE, 60.0).moved == ("b",)


@given(
    st.dictionaries(st.text(min_size=1, max_size=3), st.lists(st.floats(0, 1e-2), min_size=2, max_size=2), max_size=6),
    st.floats(1, 120),
)
def test_what_is_asked_is_predicted_with_no_layer_moved_in_vain(errors, keep_db):
    given_scores = {key: scores(*e) for key, e in errors.items()}
    found = choose(PrecisionPlan(dict.fromkeys(errors, INT8)), given_scores, keep_db)
    left = [key for key in errors if key not in found.moved]
    if left:
        assert found.predicted.mean_db >= keep_db
    if found.moved:
        before = predict(given_scores[key] for key in [*left, found.moved[-1]])
        assert before.mean_db < keep_db
        least = min(given_scores[key].both.mean_squared_error for key in found.moved)
        assert all(given_scores[key].both.mean_squared_error <= least for key in left)


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = nn.Conv2d(32, 32, 1), nn.Conv2d(32, 32, 1), nn.Conv2d(32, 32, 1)
        self.out, self.skip, self.after = nn.Conv2d(32, 32, 1), nn.Conv2d(32, 32, 1), nn.Conv2d(32, 32, 1)

    def forward(self, noise):
        def heads(x):
            return x.reshape(1, 2, 16, 16).transpose(2, 3)

        mixed = nn.functional.scaled_dot_product_attention(*(heads(f(noise)) for f in (self.q, self.k, self.v)))
        return self.after(self.skip(noise) + self.out(mixed.transpose(2, 3).reshape(1, 32, 4, 4)))


def test_an_attentions_projections_are_found_and_nothing_beyond():
    module = to_module(trace(Attending(), {"noise": torch.randn(1, 32, 4, 4)}))
    weights = {n.name: str(n.args[1]) for n in module.graph.nodes if "conv2d" in n.name}
    assert {weights[name].removesuffix("_weight") for name in attention_nodes(module)} == {"q", "k", "v", "out"}


def test_default_precisions_leave_the_residual_stream_and_the_ends_in_float(tiny):
    model = load_checkpoint(tiny, {"image_size": "8", "num_head_channels": "32"})
    captured = captured_graph(model, SampleRequest())
    layers = find_layers(captured)
    plan = default_plan(captured, layers, PrecisionPlan(bias_correction=False))
    assert not plan.bias_correction
    assert list(plan.layers) == [layer.key for layer in layers]
    for layer in layers:
        skip, ends = "skip" in layer.key, layer.role == "picture"
        assert plan.layers[layer.key] == (FLOAT if skip or ends else INT8), layer.key
    assert {key for key in plan.layers if "qkv" in key or "proj_out" in key}
    assert {key for key, precision in plan.layers.items() if precision == FLOAT and "skip" in key}
