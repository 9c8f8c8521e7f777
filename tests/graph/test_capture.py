"""The captured program: its border, and what numbers it may contain."""

from __future__ import annotations

import pytest
import torch
from torch import fx

from cmexport.errors import UsageError
from cmexport.graph.tracing import to_module
from cmexport.model import SampleRequest
from cmexport.sampling.methods import resolve
from cmexport.sampling.samplers import SamplerGraph
from cmexport.signature import known

TWO_STEPS = (80.0, 1.3823680064)


def border(model, **request):
    request = SampleRequest(**request)
    return resolve(model, request).signature


def test_the_border_of_each_request(adm_model):
    labelled, plain = adm_model(channel_mult=(1,)), adm_model(channel_mult=(1,), num_classes=None)
    noise, label = known.noise((1, 3, 8, 8)), known.label(1, 10)
    assert border(plain).inputs == (noise,)
    assert border(labelled).inputs == (noise, label)
    assert border(labelled, label=9).inputs == (noise,)
    several = border(labelled, batch=4, sigmas=(80.0, 5.0, 1.0)).inputs
    assert several == (known.noise((4, 3, 8, 8)), known.renoise(2, (4, 3, 8, 8)), known.label(4, 10))
    assert [(i.name, i.shape, i.dtype, i.batch_axis) for i in several] == [
        ("noise", (4, 3, 8, 8), "float32", 0),
        ("renoise", (2, 4, 3, 8, 8), "float32", 1),
        ("label", (4,), "int64", 0),
    ]


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        ({"batch": 0}, "--batch 0: must be at least 1"),
        ({"label": 10}, "labels 0 to 9"),
        ({"label": -1}, "labels 0 to 9"),
    ],
)
def test_impossible_requests_are_refused(adm_model, request_, reason):
    with pytest.raises(UsageError, match=reason):
        border(adm_model(channel_mult=(1,)), **request_)


def test_a_label_for_an_unconditional_model_is_refused(adm_model):
    with pytest.raises(UsageError, match="unconditional and takes no label"):
        border(adm_model(channel_mult=(1,), num_classes=None), label=0)


def test_examples_are_valid_and_deterministic(adm_model):
    found = border(adm_model(channel_mult=(1,), num_classes=2), batch=3, sigmas=TWO_STEPS)
    first, again, other = (found.examples(run) for run in (4, 4, 5))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["noise"], other["noise"])
    assert {n: tuple(t.shape) for n, t in first.items()} == {i.name: i.shape for i in found.inputs}
    assert first["label"].max() < 2


@pytest.mark.parametrize("output", ["float", "uint8"])
def test_the_program_is_the_sampler(adm_model, captured, output):
    model = adm_model(channel_mult=(1,))
    request = SampleRequest(batch=2, sigmas=TWO_STEPS, output=output)
    graph = captured(model, request)
    inputs = graph.examples()
    with torch.no_grad():
        expected = SamplerGraph(resolve(model, request))(**inputs)
    assert torch.equal(graph.program.module(check_guards=False)(**inputs), expected)
    image = graph.signature.output
    assert image.name == "image"
    assert image.shape == tuple(expected.shape)
    assert image.dtype == str(expected.dtype).removeprefix("torch.")
    assert graph.signature.choice.count == 10


def test_a_baked_label_is_that_label(adm_model, captured):
    model = adm_model(channel_mult=(1,))
    open_graph, baked = captured(model), captured(model, SampleRequest(label=6))
    noise = baked.examples()["noise"]
    assert (baked.signature.choice, open_graph.signature.choice) == (None, known.label(1, 10))
    expected = open_graph.program.module(check_guards=False)(noise=noise, label=torch.tensor([6]))
    assert torch.equal(baked.program.module(check_guards=False)(noise=noise), expected)


def numbers(graph):
    """Every float that an operator of the graph takes as an argument."""
    found = []
    for node in graph.nodes:
        if node.op == "call_function":
            fx.node.map_aggregate(
                (node.args, dict(node.kwargs)), lambda v: found.append(v) if isinstance(v, float) else v
            )
    return found


def test_a_one_step_graph_never_multiplies_by_80(adm_model, captured):
    """Every factor is a normal half-precision number: 0.99998, 0.0031, 0.49998; not 80 and not 3.9e-5."""
    model = adm_model(channel_mult=(1,), num_classes=None)
    graph = to_module(captured(model).program).graph
    factors = [v for n in graph.nodes if n.target is torch.ops.aten.mul.Tensor for v in n.args if isinstance(v, float)]
    # The time embedding's log(10000) is an intermediate of the sinusoid, gone after fold_constants.
    picture = [abs(v) for v in factors if not 0.5 < abs(v) < 0.6]
    assert sorted(f for f in picture if f < 0.9999)[0] == pytest.approx(0.0031250344, rel=1e-6)
    assert all(2.0**-14 <= f <= 2.0 for f in picture)
    assert 80.0 not in numbers(graph)


def test_to_module_drops_the_exporters_assertions(adm_model, captured):
    module = to_module(captured(adm_model(channel_mult=(1,))).program)
    assert not [n for n in module.graph.nodes if "assert" in str(n.target) or "constrain" in str(n.target)]
    assert [n.name for n in module.graph.nodes if n.op == "placeholder"] == ["noise", "label"]
