"""onnxsim as an oracle of our graphs, and as the optional `simplify` step."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnx
import onnxsim
import pytest

from cmexport.errors import BackendError, UsageError
from cmexport.model import SampleRequest
from cmexport.onnxfile import saving
from cmexport.onnxfile.runner import OnnxRuntimeRunner
from cmexport.onnxfile.simplifying import simplify_file
from cmexport.targets.onnx.info import OnnxOptions
from cmexport.targets.onnx.target import OnnxTarget

SMALL = {"channel_mult": (1,), "attention_downsampling": (), "num_head_channels": 16}
TWO_STEPS = (80.0, 1.3823680064)


def operators(model):
    return Counter(f"{node.domain}:{node.op_type}" for node in model.graph.node)


def weights(model):
    """Sizes of what is stored, without small vectors: equal ones (the ones and zeros of norms) it makes one."""
    return sorted(size for i in model.graph.initializer if (size := int(np.prod(i.dims))) >= 512)


def assert_nothing_to_remove(path, idle_reshapes=0):
    """What onnxsim takes away is MatMul and Add of a linear layer in fp32, which it writes as Reshape, Gemm, Reshape.

    That is one node more for each layer, and no faster: we leave it as it is.
    """
    ours = onnx.load(path)
    simplified, _ = onnxsim.simplify(str(path), certify=False)
    before, after = operators(ours), operators(simplified)
    removed, added = before - after, after - before
    removed -= Counter({":Reshape": idle_reshapes})
    gemms = added[":Gemm"]
    assert removed == Counter({":MatMul": gemms, ":Add": gemms}) if gemms else not removed
    assert added == Counter({":Gemm": gemms, ":Reshape": 2 * gemms}) if gemms else not added
    assert weights(simplified) == weights(ours)


@pytest.mark.parametrize("sigmas", [(), TWO_STEPS], ids=["one step", "two steps"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_onnxsim_finds_nothing_to_remove_in_the_demo(demo, precision, sigmas):
    assert_nothing_to_remove(demo(precision, sigmas).path)


CASES = {
    # Attention spelled out held pairs of transpositions that undo each other, 22 nodes of the demo's 550.
    "plain operators": (SampleRequest(), OnnxOptions(ep="openvino"), {}),
    "for browsers, half": (SampleRequest(), OnnxOptions(ep="web", precision="fp16"), {}),
    "int8": (SampleRequest(), OnnxOptions(precision="int8"), SMALL),
    "w8": (SampleRequest(), OnnxOptions(precision="w8"), SMALL),
    "w4": (SampleRequest(), OnnxOptions(precision="w4"), SMALL),
    "a16w8": (SampleRequest(), OnnxOptions(precision="a16w8", ep="qnn"), SMALL),
    "baked label, bytes, batch 2": (SampleRequest(label=1, output="uint8", batch=2), OnnxOptions(), {}),
    # Each step transposed the linear weights for itself: the demo's 11 stayed in the file.
    "two steps, plain": (SampleRequest(sigmas=TWO_STEPS), OnnxOptions(ep="openvino"), {}),
}


@pytest.mark.parametrize("case", CASES)
def test_onnxsim_finds_nothing_to_remove_in_other_forms(export, case):
    request, options, fields = CASES[case]
    # One channel a group: reshapes behind integer products lead nowhere, and no shape says so.
    assert_nothing_to_remove(export(request, options, **fields).path, idle_reshapes=3 if case == "int8" else 0)


def simplified(written, folder):
    """The same file simplified: lowering again would calibrate again."""
    for name in written.lowered.files:
        shutil.copy(written.folder / name, folder)
    return simplify_file(written.lowered.signature, folder / "model.onnx")


def picture(path, inputs):
    with OnnxRuntimeRunner(path, threads=1) as run:
        return run(inputs)["image"]


@pytest.mark.parametrize(
    ("precision", "ep", "least_db", "ir_version", "opset"),
    [
        ("fp32", "cpu", 100, 9, 20),
        ("fp16", "openvino", 60, 9, 20),
        ("int8", "cpu", 30, 9, 20),
        ("w4", "cpu", 20, 10, 21),
        ("a16w8", "qnn", 45, 9, 21),
    ],
)
def test_a_simplified_file_draws_the_picture_and_keeps_its_form(
    export, psnr, tmp_path, precision, ep, least_db, ir_version, opset
):
    plain = export(options=OnnxOptions(precision=precision, ep=ep), **SMALL)
    files, account = simplified(plain, tmp_path)
    assert files == ("model.onnx",)
    path = tmp_path / "model.onnx"
    model, ours = onnx.load(path), plain.proto
    onnx.checker.check_model(model, full_check=True)
    assert (model.ir_version, ours.ir_version) == (ir_version, ir_version)
    assert {o.domain: o.version for o in model.opset_import}[""] == opset
    assert [i.name for i in model.graph.input] == [i.name for i in ours.graph.input]
    assert [o.name for o in model.graph.output] == [o.name for o in ours.graph.output]
    assert model.producer_name == "cmexport"
    assert not model.metadata_props, "onnxsim's own account stays out; ours is stamped later"
    assert (account.nodes_before, account.nodes_after) == (len(ours.graph.node), len(model.graph.node))
    inputs = plain.inputs()
    assert psnr(plain.reference(inputs), picture(path, inputs)) >= least_db
    assert psnr(plain.run(inputs), picture(path, inputs)) >= 55


def test_a_longer_graph_gets_shorter(export, tmp_path):
    # Without rewrites there is something to find: onnxsim works on what is written, and the account is of that.
    options = OnnxOptions(rewrites="none")
    plain = export(options=options, **SMALL)
    lowered = OnnxTarget().lower_one(plain.captured, replace(options, simplify=True), tmp_path, lambda _: None)
    account = lowered.simplification
    assert account["onnxsim"] == onnxsim.__version__.lstrip("v")
    assert account["nodes_before"] == len(plain.proto.graph.node)
    assert account["nodes_after"] == len(onnx.load(tmp_path / "model.onnx").graph.node)
    assert account["nodes_after"] < account["nodes_before"]


def test_weights_beside_the_file_stay_beside_it(export, psnr, tmp_path, monkeypatch):
    plain = export(options=OnnxOptions(), **SMALL)
    monkeypatch.setattr(saving, "EXTERNAL_DATA_BYTES", 10_000)
    lowered = OnnxTarget().lower_one(plain.captured, OnnxOptions(simplify=True), tmp_path, lambda _: None)
    assert lowered.files == ("model.onnx", "model.onnx.data")
    assert {p.name for p in tmp_path.iterdir()} == set(lowered.files)
    assert (tmp_path / "model.onnx").stat().st_size < (tmp_path / "model.onnx.data").stat().st_size
    inputs = plain.inputs()
    assert psnr(plain.reference(inputs), picture(tmp_path / "model.onnx", inputs)) >= 100


def test_what_onnxsim_throws_is_one_sentence(export, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("No Op registered for QuickGelu\n\n==> Context: Bad node spec for node")

    monkeypatch.setitem(sys.modules, "onnxsim", SimpleNamespace(simplify=fail))
    with pytest.raises(BackendError, match=r"^--simplify: onnxsim .* fails .*QuickGelu\nleave --simplify out$"):
        simplified(export(options=OnnxOptions(), **SMALL), tmp_path)


def test_a_loop_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"--simplify: not for --sampler heun"):
        OnnxTarget().lower_loop(None, OnnxOptions(simplify=True), tmp_path, lambda _: None)
