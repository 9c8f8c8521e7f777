"""A program put together by hand against the one that torch traces."""

from __future__ import annotations

import pytest
import torch

from cmexport.graph.assembly import assemble
from cmexport.graph.capture import capture
from cmexport.graph.fxtools import Editor
from cmexport.graph.rewrites import REWRITES
from cmexport.graph.tracing import to_module, trace
from cmexport.model import SampleRequest
from cmexport.sampling.methods import resolve


@pytest.fixture
def rewritten(adm_model):
    """A rewritten module, with its inputs."""
    model = adm_model()
    request = SampleRequest(sigmas=(80.0,), batch=2)
    graph = capture(resolve(model, request))
    module = to_module(graph.program)
    editor = Editor(module)
    for rewrite in REWRITES:
        rewrite.apply(editor)
        editor.clean()
    return module, graph.examples(3)


def test_assembled_is_what_tracing_again_gives(rewritten) -> None:
    module, inputs = rewritten
    own, torchs = assemble(module, inputs), trace(module, inputs)
    assert [n.format_node() for n in own.graph.nodes] == [n.format_node() for n in torchs.graph.nodes]
    assert own.graph_signature.input_specs == torchs.graph_signature.input_specs
    assert own.graph_signature.output_specs == torchs.graph_signature.output_specs
    assert own.module_call_graph[0] == torchs.module_call_graph[0]
    assert list(own.state_dict) == list(torchs.state_dict)
    for ours, theirs in zip(own.graph.nodes, torchs.graph.nodes, strict=True):
        if ours.op != "output":
            described = (torch.utils._pytree.tree_leaves(n.meta["val"]) for n in (ours, theirs))
            assert all((a.shape, a.dtype) == (b.shape, b.dtype) for a, b in zip(*described, strict=True))


def test_an_assembled_program_runs_and_decomposes(rewritten) -> None:
    module, inputs = rewritten
    program = assemble(module, inputs)
    with torch.no_grad():
        expected = module(**inputs)
        assert torch.equal(program.module()(**inputs), expected)
        assert torch.allclose(program.run_decompositions().module()(**inputs), expected, atol=1e-5)


def test_an_input_without_an_example_is_named(rewritten) -> None:
    module, inputs = rewritten
    del inputs["label"]
    with pytest.raises(ValueError, match="label"):
        assemble(module, inputs)
