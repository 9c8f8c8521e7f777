"""Translation without decomposition writes what torch's exporter writes, byte for byte."""

from __future__ import annotations

import onnx_ir as ir
import pytest
import torch
from support.networks import model_around, one_level, random_weights, tiny_config

from cmexport.graph.capture import CapturedGraph, capture
from cmexport.graph.rewrites import REWRITES
from cmexport.graph.rewriting import apply_rewrites
from cmexport.graph.tracing import trace
from cmexport.model import SampleRequest
from cmexport.networks.adm_unet import AdmUnet
from cmexport.onnxfile import translate as translation
from cmexport.onnxfile.plain import is_plain
from cmexport.onnxfile.translations import standard_translations
from cmexport.sampling.methods import resolve
from cmexport.signature import Output, Signature, known
from cmexport.targets.onnx.contrib import contrib_translations
from cmexport.targets.onnx.rewrites import OWN_REWRITES


@pytest.fixture(scope="module")
def model():
    """Around a small random ADM UNet with attention, labels and down- and upsampling."""
    return model_around(random_weights(AdmUnet(tiny_config(4)), 1), 8, 4)


@pytest.fixture(scope="module")
def small():
    """Of one level, for several steps: the long way takes 5 s for two of the other."""
    return model_around(random_weights(AdmUnet(one_level(4)), 1), 8, 4)


def written(model: ir.Model) -> bytes:
    return ir.to_proto(model).SerializeToString(deterministic=True)


@pytest.mark.parametrize(
    "fields", [{}, {"batch": 2}, {"sigmas": (80.0, 2.0)}, {"task": "inpaint", "sigmas": (80.0, 2.0)}]
)
def test_both_ways_write_the_same_bytes(model, small, monkeypatch, fields) -> None:
    model = small if "sigmas" in fields else model
    request = SampleRequest(**{"sigmas": (80.0,), **fields})
    graph = apply_rewrites(capture(resolve(model, request)), [*REWRITES, *OWN_REWRITES])
    assert is_plain(graph.program, contrib_translations())
    short = translation.translate(graph, contrib_translations(), 20)
    monkeypatch.setattr(translation, "is_plain", lambda *_: False)
    assert written(short) == written(translation.translate(graph, contrib_translations(), 20))


@pytest.mark.parametrize(
    "forward",
    [
        lambda x: torch.cumsum(x, 1),  # no operator of consistency networks
        lambda x: x * torch.arange(4),  # whole numbers, which need a cast
        lambda x: x.double().float(),  # another type inside
        lambda x: x.transpose(1, 2).reshape(1, 16, 4),  # a reshape that copies
    ],
)
def test_other_operators_go_the_long_way(forward) -> None:
    class Net(torch.nn.Module):
        def forward(self, noise):
            return forward(noise)

    noise = torch.zeros(1, 4, 4, 4)
    program = trace(Net(), {"noise": noise})
    assert not is_plain(program, standard_translations())
    border = Signature((known.noise((1, 4, 4, 4)),), Output("image", tuple(forward(noise).shape)))
    graph = CapturedGraph(program, border)
    assert translation.translate(graph, standard_translations(), 20).graph.outputs


def test_norms_and_attention_need_their_spelling() -> None:
    class Net(torch.nn.Module):
        def forward(self, noise):
            return torch.nn.functional.group_norm(noise, 2)

    program = trace(Net(), {"noise": torch.zeros(1, 4, 4, 4)})
    assert is_plain(program, standard_translations())
    assert not is_plain(program, {})
