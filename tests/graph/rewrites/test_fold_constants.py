"""fold_constants: nothing of the time branch is left, and its values come from float64."""

from __future__ import annotations

import pytest
import torch

from cmexport.graph.fxtools import Editor, aten, attribute, dependence, operation_count
from cmexport.graph.rewrites.fold_constants import REWRITE, fold_fixed_values
from cmexport.graph.rewriting import apply_rewrites
from cmexport.graph.tracing import to_module, trace
from cmexport.model import SampleRequest

TIME_BRANCH = {"sin", "cos", "exp", "arange", "_to_copy", "to"}


def names(program):
    return {n.target.__name__.split(".")[0] for n in program.graph.nodes if n.op == "call_function"}


def test_no_operator_of_the_time_branch_is_left(adm_model, captured):
    graph = captured(adm_model())
    assert {"sin", "cos", "exp"} <= names(graph.program)
    rewritten = apply_rewrites(graph, [REWRITE])
    assert not names(rewritten.program) & TIME_BRANCH


def test_the_time_mlp_leaves_a_conditional_network(adm_model, captured):
    """Base width 32: two linear layers of the time embedding, and the stored c_noise; one row of 128 comes back."""
    (report,) = apply_rewrites(captured(adm_model()), [REWRITE]).rewrites
    assert report.parameters_removed == (32 * 128 + 128) + (128 * 128 + 128) + 1 - 128
    assert report.applied == 1


def test_every_projection_leaves_an_unconditional_network(adm_model, captured):
    model = adm_model(num_classes=None)
    (report,) = apply_rewrites(captured(model), [REWRITE]).rewrites
    embedding = sum(
        p.numel() for name, p in model.network.named_parameters() if "emb_layers" in name or "time_embed" in name
    )
    rows = sum(m.out_features for n, m in model.network.named_modules() if n.endswith("emb_layers.1"))
    assert report.parameters_removed == embedding + 1 - rows


def test_nothing_fixed_is_left_to_compute(adm_model, captured):
    rewritten = apply_rewrites(captured(adm_model(), SampleRequest(label=3, batch=2)), [REWRITE])
    module = to_module(rewritten.program)
    depends = dependence(module.graph)
    assert not [n for n in module.graph.nodes if n.op == "call_function" and not depends[n]]


class Angle(torch.nn.Module):
    """cos(1095.5067): float32 knows the angle to 6e-5."""

    def __init__(self):
        super().__init__()
        self.register_buffer("c_noise", torch.tensor([1095.5066587], dtype=torch.float64))

    def forward(self, noise):
        return noise * torch.cos(self.c_noise.to(torch.float32) * 1.0)


def test_values_come_from_float64():
    module = to_module(trace(Angle(), {"noise": torch.zeros(1)}))
    editor = Editor(module)
    assert fold_fixed_values(editor) == 1
    editor.clean()
    assert operation_count(module) == 1
    (product,) = [n for n in module.graph.nodes if n.target is aten.mul.Tensor]
    stored = attribute(module, product.args[1])
    assert stored.dtype is torch.float32
    exact = torch.cos(torch.tensor([1095.5066587], dtype=torch.float64))
    assert float(stored) == pytest.approx(float(exact), rel=6e-8)
    single = torch.cos(torch.tensor([1095.5066587], dtype=torch.float32))
    assert abs(float(single) - float(exact)) > 1e-6
