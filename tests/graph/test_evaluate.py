"""Evaluation in float64: exact against `network.double()`, and only what was asked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from cmexport.graph.evaluate import PartialEvaluator, pictures_together, run_picture, run_together, unclamped_picture
from cmexport.graph.exact import ExactRunner
from cmexport.graph.tracing import to_module, trace
from cmexport.model import SampleRequest

TWO_STEPS = (80.0, 1.3823680064)


@pytest.mark.parametrize("request_", [SampleRequest(), SampleRequest(sigmas=TWO_STEPS, batch=2, label=3)])
def test_a_captured_graph_in_float64_is_the_float64_network(adm_model, captured, exact_picture, request_):
    """float32 would differ by 1e-6; the two float64 computations differ by their summation order only."""
    model = adm_model()
    graph = captured(model, request_)
    inputs = graph.examples(3)
    expected = exact_picture(model, request_, inputs)
    got = unclamped_picture(to_module(graph.program), inputs)
    assert (got - expected).abs().max() <= 1e-12 * expected.abs().max()


def test_the_exact_runner_gives_clamped_float64(adm_model, captured, exact_picture):
    model = adm_model(fresh=True, channel_mult=(1,))
    model.network.out[2].bias.data += 1.5
    graph = captured(model)
    inputs = graph.examples(3)
    with ExactRunner(graph) as run:
        image = run({name: tensor.numpy() for name, tensor in inputs.items()})["image"]
    expected = exact_picture(model, SampleRequest(), inputs).clamp(-1.0, 1.0).numpy()
    assert image.dtype == np.float64
    assert (image == 1.0).any()
    np.testing.assert_allclose(image, expected, rtol=0, atol=1e-12)


def test_the_exact_runner_keeps_bytes(adm_model, captured):
    graph = captured(adm_model(channel_mult=(1,)), SampleRequest(output="uint8"))
    inputs = graph.examples(3)
    with ExactRunner(graph) as run:
        image = run({name: tensor.numpy() for name, tensor in inputs.items()})["image"]
    assert (image.dtype, image.shape) == (np.uint8, (1, 8, 8, 3))


class Branches(nn.Module):
    """A fixed branch, a label branch and a noise branch."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(3, 4)
        self.register_buffer("third", torch.tensor([1.0 / 3.0]))

    def forward(self, noise, label):
        fixed = torch.exp(self.third * 2.0)
        row = self.table(label) * fixed
        return noise + row.sum()


@pytest.fixture(scope="module")
def branches():
    module = Branches().requires_grad_(False)
    program = trace(module, {"noise": torch.zeros(4), "label": torch.tensor([0])})
    return module, to_module(program)


def test_fixed_values_are_computed_in_float64(branches):
    _, graph = branches
    exp = next(n for n in graph.graph.nodes if n.target is torch.ops.aten.exp.default)
    value = PartialEvaluator(graph, {}).value(exp)
    assert value.dtype is torch.float64
    # The stored third is a float32; everything after it is exact.
    assert float(value) == pytest.approx(np.exp(float(np.float32(1 / 3)) * 2.0), rel=1e-15)


def test_label_values_are_computed_from_the_given_label(branches):
    module, graph = branches
    label = next(n for n in graph.graph.nodes if n.name == "label")
    row = next(n for n in graph.graph.nodes if n.target is torch.ops.aten.embedding.default)
    value = PartialEvaluator(graph, {label: torch.tensor([2])}).value(row)
    assert torch.equal(value, module.table.weight[2:3].double())


def test_evaluation_follows_only_what_is_needed(branches):
    """Asking for the fixed branch must not need the noise, which nobody gave."""
    _, graph = branches
    seen = []

    evaluator = PartialEvaluator(graph, {})
    run_node = evaluator._interpreter.run_node
    evaluator._interpreter.run_node = lambda n: (seen.append(n), run_node(n))[1]
    exp = next(n for n in graph.graph.nodes if n.target is torch.ops.aten.exp.default)
    evaluator.value(exp)
    evaluator.value(exp)
    assert len(seen) == len(set(seen))
    assert not any(n.op == "placeholder" for n in seen)


@torch.library.custom_op("cmexport_tests::without_a_rule", mutates_args=())
def without_a_rule(x: torch.Tensor) -> torch.Tensor:
    return x.sin()


@without_a_rule.register_fake
def _(x):
    return torch.empty_like(x)


@pytest.mark.parametrize("request_", [SampleRequest(), SampleRequest(sigmas=TWO_STEPS, batch=2, label=3)])
def test_pictures_drawn_together_are_those_drawn_alone(adm_model, captured, request_, capfd):
    graph = captured(adm_model(), request_)
    module = to_module(graph.program)
    inputs = [graph.examples(seed) for seed in range(3)]

    def draw(given):
        picture = run_picture(torch.fx.Interpreter(module), given)
        return {"picture": picture, "more": (without_a_rule(picture),)}

    with torch.no_grad():
        together = run_together(draw, inputs)
        alone = torch.stack([draw(given)["picture"] for given in inputs])
    assert together["picture"].shape == alone.shape
    torch.testing.assert_close(together["picture"], alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together["more"][0], alone.sin(), rtol=1e-4, atol=1e-5)
    # torch has a word for operators without a rule, on the file descriptor itself.
    assert capfd.readouterr().err == ""


def test_large_networks_draw_one_picture_at_a_time():
    assert pictures_together([torch.empty(20_000_000, device="meta"), torch.empty(20_000_000, device="meta")]) == 1
    assert pictures_together([torch.empty(20_000_000, device="meta")]) > 1
