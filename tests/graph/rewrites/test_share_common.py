"""share_common: equal subexpressions are computed once, and the graph keeps its border."""

from __future__ import annotations

from cmexport.graph.fxtools import aten, dependence
from cmexport.graph.rewrites.share_common import REWRITE
from cmexport.graph.rewriting import apply_rewrites
from cmexport.graph.tracing import to_module
from cmexport.model import SampleRequest


def embedding_silus(program):
    module = to_module(program)
    depends = dependence(module.graph)
    return [n for n in module.graph.nodes if n.target is aten.silu.default and depends[n] == {"label"}]


def test_the_silu_of_the_embedding_is_computed_once(adm_model, captured):
    model = adm_model()
    graph = captured(model)
    blocks = sum(name.endswith("emb_layers.1") for name, _ in model.network.named_modules())
    assert len(embedding_silus(graph.program)) == blocks > 1
    rewritten = apply_rewrites(graph, [REWRITE])
    assert len(embedding_silus(rewritten.program)) == 1
    (report,) = rewritten.rewrites
    assert (report.nodes_removed, report.parameters_removed, report.max_relative_error) == (blocks - 1, 0, 0.0)


def test_names_at_the_border_survive(adm_model, captured):
    request = SampleRequest(sigmas=(80.0, 1.38), batch=2)
    rewritten = apply_rewrites(captured(adm_model(channel_mult=(1,)), request), [REWRITE])
    module = to_module(rewritten.program)
    assert [n.name for n in module.graph.nodes if n.op == "placeholder"] == ["noise", "renoise", "label"]
