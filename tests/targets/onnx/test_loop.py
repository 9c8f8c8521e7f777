"""Files that loop: Heun's method in one ONNX file, against the paper's algorithm 1 in float64."""

from __future__ import annotations

import copy
import math

import numpy as np
import onnx
import pytest
import torch
from support.networks import model_around, random_weights, tiny_config

from cmexport.graph.looping import capture_loop, rewrite_loop
from cmexport.graph.rewrites import REWRITES
from cmexport.model import SampleRequest
from cmexport.networks.adm_unet import AdmUnet
from cmexport.onnxfile import saving
from cmexport.onnxfile.runner import OnnxRuntimeRunner
from cmexport.sampling.methods import resolve
from cmexport.targets.onnx.info import OnnxOptions
from cmexport.targets.onnx.target import OnnxTarget
from cmexport.targets.registry import INFOS

SIGMAS, D, E = (80.0, 9.0, 1.4, 0.3, 0.002), 0.5, 0.002
TARGET = OnnxTarget()


class Written:
    def __init__(self, folder, options, classes, precond="edm", **fields):
        self.model = model_around(random_weights(AdmUnet(tiny_config(classes)), 0), 8, classes, preconditioning=precond)
        self.request = SampleRequest(sigmas=SIGMAS, sampler="heun", **fields)
        self.loop = capture_loop(resolve(self.model, self.request))
        rewrites = () if options.rewrites == "none" else (*REWRITES, *TARGET.rewrites_for(options))
        self.lowered = TARGET.lower_loop(rewrite_loop(self.loop, rewrites), options, folder, lambda _: None)
        self.path = folder / self.lowered.files[0]
        rng = np.random.default_rng(3)
        self.inputs = {s.name: rng.standard_normal(s.shape).astype(np.float32) for s in self.loop.signature.inputs}
        if "label" in self.inputs:
            self.inputs["label"] = np.arange(len(self.inputs["noise"])) % classes

    def run(self, optimization="all"):
        with OnnxRuntimeRunner(self.path, optimization, threads=1) as run:
            return run(self.inputs)["image"]

    def algorithm_1(self):
        network, precond = copy.deepcopy(self.model.network).double(), self.model.preconditioning
        label = self.inputs.get("label")
        if self.request.label is not None:
            label = np.full(len(self.inputs["noise"]), self.request.label)

        def picture(x, s):
            above = s - E if precond == "cm" else s
            c_noise = torch.tensor([250.0 * math.log(s)], dtype=torch.float64)
            scaled = torch.from_numpy(x) / math.sqrt(s**2 + D**2)
            with torch.no_grad():
                answer = network(scaled, c_noise, *(() if label is None else (torch.from_numpy(label),))).numpy()
            return D**2 / (above**2 + D**2) * x + above * D / math.sqrt(s**2 + D**2) * answer

        x = SIGMAS[0] * self.inputs["noise"].astype(np.float64)
        for s, after in zip(SIGMAS, (*SIGMAS[1:], 0.0), strict=True):
            d = (x - picture(x, s)) / s
            following = x + (after - s) * d
            if after:
                following = x + (after - s) * (d + (following - picture(following, after)) / after) / 2
            x = following
        return x.clip(-1.0, 1.0)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A function: a tiny network sampled by Heun's method in a file; once for equal arguments."""
    made = {}

    def write(classes=3, precond="edm", precision="fp32", ep="cpu", rewrites="all", **fields):
        key = (classes, precond, precision, ep, rewrites, *sorted(fields.items()))
        if key not in made:
            options = OnnxOptions(precision=precision, ep=ep, rewrites=rewrites)
            made[key] = Written(tmp_path_factory.mktemp("loop"), options, classes, precond, **fields)
        return made[key]

    return write


@pytest.mark.parametrize("optimization", ["none", "all"])
@pytest.mark.parametrize(
    "fields",
    [
        {"batch": 2},
        {"classes": None, "precond": "cm"},
        {"ep": "web", "label": 2},
        {"rewrites": "none"},
    ],
    ids=str,
)
def test_the_file_is_algorithm_1(written, fields, optimization):
    file = written(**fields)
    expected = file.algorithm_1()
    assert np.abs(file.run(optimization) - expected).max() <= 2e-5
    assert np.std(expected) > 0.1


def test_half_precision_stays_inside_its_gate(written, psnr):
    file = written(precision="fp16")
    assert psnr(file.algorithm_1(), file.run()) >= 60.0
    types = {i.data_type for i in body(onnx.load(file.path)).initializer if np.prod(i.dims) > 1000}
    assert onnx.TensorProto.FLOAT16 in types
    assert file.lowered.precision_plan["default"] == "float16"


def test_bytes_are_the_rounded_picture(written):
    file = written(output="uint8")
    levels = np.rint((file.algorithm_1() + 1.0) * 127.5).astype(np.uint8).transpose(0, 2, 3, 1)
    got = file.run()
    assert got.dtype == np.uint8
    assert got.shape == levels.shape
    assert np.mean(got != levels) < 0.01


def body(proto):
    (loop,) = [n for n in proto.graph.node if n.op_type == "Loop"]
    (attribute,) = loop.attribute
    return attribute.g


def test_the_network_is_there_once_behind_the_usual_border(written):
    file = written(batch=2)
    proto = onnx.load(file.path)
    assert [i.name for i in proto.graph.input] == ["noise", "label"]
    assert [o.name for o in proto.graph.output] == ["image"]
    inside = body(proto)
    weights = sum(np.prod(i.dims) for i in inside.initializer)
    assert weights <= file.model.parameters
    assert not any(n.op_type in ("Sin", "Cos") for n in inside.node)
    names = [i.name for g in (proto.graph, inside) for i in g.initializer]
    names += [o for g in (proto.graph, inside) for n in g.node for o in n.output]
    assert len(names) == len(set(names))


def test_a_plain_file_has_plain_operators(written):
    proto = onnx.load(written(ep="web", label=2).path)
    assert {n.domain for n in body(proto).node} == {""}
    assert [o.domain for o in proto.opset_import] == [""]


def test_weights_too_large_for_one_message_lie_beside_it(tmp_path, monkeypatch):
    monkeypatch.setattr(saving, "EXTERNAL_DATA_BYTES", 100_000)
    file = Written(tmp_path, OnnxOptions(), 3)
    assert file.lowered.files == ("model.onnx", "model.onnx.data")
    assert file.path.stat().st_size < 200_000
    assert np.abs(file.run() - file.algorithm_1()).max() <= 2e-5


def test_which_targets_loop():
    assert [name for name, info in INFOS.items() if info.loop_precisions] == ["onnx"]
