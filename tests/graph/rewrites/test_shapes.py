"""What all rewrites together leave: rank 4 at most, for runtimes that know no more (Core ML, QNN, mobile GPUs)."""

from __future__ import annotations

import pytest
import torch
from torch import fx

from cmexport.graph.rewrites import REWRITES
from cmexport.graph.rewriting import apply_rewrites
from cmexport.graph.tracing import to_module
from cmexport.model import SampleRequest


def ranks(module):
    found = []
    for node in module.graph.nodes:
        fx.node.map_aggregate(node.meta.get("val"), lambda v: found.append(v.dim()) if hasattr(v, "dim") else None)
    return found


@pytest.mark.parametrize("fields", [{}, {"qkv_order": "head_major", "num_classes": None, "num_head_channels": 8}])
@pytest.mark.parametrize("request_", [SampleRequest(), SampleRequest(batch=2, output="uint8")])
def test_no_tensor_above_rank_4(adm_model, captured, fields, request_):
    graph = captured(adm_model(**fields), request_)
    module = to_module(apply_rewrites(graph, REWRITES).program)
    assert ranks(module)
    assert max(ranks(module)) == 4


def test_the_rank_check_sees_rank_5():
    class Five(torch.nn.Module):
        def forward(self, noise):
            return noise.reshape(1, 1, 1, 2, 2).sum(dim=-1)

    program = torch.export.export(Five(), (torch.zeros(1, 1, 2, 2),))
    assert max(ranks(to_module(program))) == 5
