"""K copies of one trace against a trace of all K steps, which torch makes without our help."""

from __future__ import annotations

import pytest
import torch

from cmexport.graph.assembly import assemble
from cmexport.graph.capture import BRIEF_STEPS, capture
from cmexport.graph.rewrites import REWRITES
from cmexport.graph.rewriting import apply_rewrites
from cmexport.graph.tracing import to_module, trace
from cmexport.model import SampleRequest
from cmexport.sampling.methods import resolve
from cmexport.sampling.samplers import SamplerGraph
from cmexport.sampling.schedules import plan_sampling


def lines(program):
    """Every operation with its arguments, and what each value looks like."""
    nodes = program.graph.nodes
    return [n.format_node() for n in nodes], [[(v.shape, v.dtype) for v in described(n)] for n in nodes]


def described(node):
    return [v for v in torch.utils._pytree.tree_leaves(node.meta.get("val")) if isinstance(v, torch.Tensor)]


ONE_LEVEL = {"channel_mult": (1,), "attention_downsampling": (1,)}


@pytest.mark.parametrize(
    ("fields", "request_fields"),
    [
        ({}, {}),
        ({"num_classes": None, **ONE_LEVEL}, {"batch": 2}),
        (ONE_LEVEL, {"label": 3, "output": "uint8"}),
        (ONE_LEVEL, {"task": "inpaint"}),
    ],
)
def test_unrolled_is_what_tracing_all_steps_gives(adm_model, fields, request_fields) -> None:
    model = adm_model(**fields)
    request = SampleRequest(sigmas=(80.0, 5.0, 1.2), **request_fields)
    graph = capture(resolve(model, request))
    sampler = SamplerGraph(resolve(model, request)).eval().requires_grad_(False)
    whole = trace(sampler, graph.examples())
    # A trace names constants after their kind; an assembled program holds c_noise among its weights.
    assert lines(graph.program) == lines(assemble(to_module(whole), graph.examples()))
    inputs = graph.examples(4)
    with torch.no_grad():
        assert torch.equal(graph.program.module()(**inputs), sampler(**inputs))


def test_the_network_is_back_in_its_place(adm_model) -> None:
    model = adm_model(**ONE_LEVEL)
    request = SampleRequest(sigmas=(80.0, 5.0))
    sampled = capture(resolve(model, request))
    x, c_noise = torch.zeros(1, 3, 8, 8), torch.zeros(1, dtype=torch.float64)
    assert model.network(x, c_noise, torch.zeros(1, dtype=torch.int64)).shape == x.shape
    assert sampled.weights["network.out.2.weight"] is dict(model.network.named_parameters())["out.2.weight"]


def test_rewrites_of_many_steps_are_measured_on_the_first_and_the_last(adm_model) -> None:
    model = adm_model(**ONE_LEVEL)
    request = SampleRequest(sigmas=(80.0, 20.0, 5.0, 1.2))
    plan = plan_sampling(model, request.sigmas)
    graph = capture(resolve(model, request))
    assert plan.steps > BRIEF_STEPS
    assert graph.brief is not None
    assert graph.brief.signature.later_noise.shape[0] == 1
    rewritten = apply_rewrites(graph, REWRITES)
    brief = apply_rewrites(graph.brief, REWRITES)
    assert [r.max_relative_error for r in rewritten.rewrites] == [r.max_relative_error for r in brief.rewrites]
    assert all(a.applied >= b.applied for a, b in zip(rewritten.rewrites, brief.rewrites, strict=True))
    inputs = graph.examples(4)
    with torch.no_grad():
        before, after = (g.program.module()(**inputs) for g in (graph, rewritten))
    assert float((before - after).abs().max()) < 1e-5


def test_what_all_rewrites_do_together_is_measured(adm_model) -> None:
    from cmexport.graph import rewriting
    from cmexport.graph.rewriting import Changes, Rewrite

    def spoil(editor):
        """Changes the third step only, which the brief sampler doesn't have."""
        names = [n for n in editor.graph.nodes if n.op == "get_attr" and n.target == "c_noise_2"]
        if not names:
            return Changes(1)
        editor.module.c_noise_2 = editor.module.c_noise_2 * 1.5
        return Changes(1)

    model = adm_model(fresh=True, seed=7, **ONE_LEVEL)
    request = SampleRequest(sigmas=(80.0, 20.0, 5.0, 1.2))
    graph = capture(resolve(model, request))
    with pytest.raises(RuntimeError, match="all rewrites together"):
        rewriting.apply_rewrites(graph, [Rewrite("spoil", "", spoil)])


def test_rewrites_of_a_huge_model_are_measured_on_the_first_step_and_in_float32(adm_model, monkeypatch) -> None:
    from cmexport.graph import capture as capturing
    from cmexport.graph import rewriting

    monkeypatch.setattr(capturing, "HUGE_MODEL", 1000)
    monkeypatch.setattr(rewriting, "HUGE_MODEL", 1000)
    model = adm_model(**ONE_LEVEL)
    graph = capture(resolve(model, SampleRequest(sigmas=(80.0, 20.0))))
    assert graph.brief is not None
    assert graph.brief.signature.later_noise is None
    first = apply_rewrites(capture(resolve(model, SampleRequest(sigmas=(80.0,)))), REWRITES)
    rewritten = apply_rewrites(graph, REWRITES)
    # One by one the largest is near what all do together.
    largest = max(r.max_relative_error or 0.0 for r in first.rewrites)
    for report in rewritten.rewrites:
        assert (report.max_relative_error is None) == (report.applied == 0)
        if report.applied:
            assert 0.0 < report.max_relative_error < 3.0 * largest
            assert report.measured.startswith(
                "all rewrites together, on the first evaluation; on the whole sampler in "
            )
    assert all(report.measured == "" for report in first.rewrites)


@pytest.mark.parametrize("step", [0, 1])
def test_a_wrong_rewrite_of_a_huge_model_is_caught(adm_model, monkeypatch, step) -> None:
    from cmexport.graph import capture as capturing
    from cmexport.graph import rewriting
    from cmexport.graph.rewriting import Changes, Rewrite

    def spoil(editor):
        """A thousandth of a network's input, in the first step or in the one that only the whole sampler has."""
        network = [n for n in editor.graph.nodes if n.op == "call_function" and "conv2d" in str(n.target)]
        inputs = [n for n in network if n.args[0].meta["val"].shape == (1, 3, 8, 8)]
        for node in inputs[step : step + 1]:
            node.update_arg(0, editor.call(node, torch.ops.aten.mul.Tensor, node.args[0], 1.001))
        return Changes(1)

    monkeypatch.setattr(capturing, "HUGE_MODEL", 1000)
    monkeypatch.setattr(rewriting, "HUGE_MODEL", 1000)
    graph = capture(resolve(adm_model(fresh=True, seed=7, **ONE_LEVEL), SampleRequest(sigmas=(80.0, 5.0))))
    with pytest.raises(RuntimeError, match="all rewrites together changed the picture"):
        apply_rewrites(graph, [Rewrite("spoil", "", spoil)])
