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
