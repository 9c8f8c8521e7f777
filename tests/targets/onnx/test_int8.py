"""int8 files in ONNX Runtime: the demo model end to end, steps, batches, bytes, tasks and providers."""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx
import pytest
import torch

from cmexport.model import SampleRequest
from cmexport.quantize import int8
from cmexport.quantize.calibration import CalibrationOptions
from cmexport.quantize.precision_plan import PrecisionPlan
from cmexport.targets.onnx import int8 as targets_int8
from cmexport.targets.onnx.info import OnnxOptions
from cmexport.targets.onnx.lower import lower

SMALL = {"channel_mult": (1,), "attention_downsampling": (), "num_head_channels": 16}
UINT8, INT8 = onnx.TensorProto.UINT8, onnx.TensorProto.INT8


@pytest.fixture(autouse=True, scope="module")
def _few_pictures():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(int8, "CalibrationOptions", partial(CalibrationOptions, pictures=24, gram_pictures=4))
        yield


def kinds(proto):
    return [n.op_type for n in proto.graph.node]


def zero_points(proto):
    """Element types of the zero points that inputs are rounded with."""
    known = {i.name: i.data_type for i in proto.graph.initializer}
    known |= {n.output[0]: n.attribute[0].t.data_type for n in proto.graph.node if n.op_type == "Constant"}
    for node in proto.graph.node:
        if node.op_type in ("Expand", "Identity", "Reshape"):
            known[node.output[0]] = known.get(node.input[0])
    return {known.get(n.input[2]) for n in proto.graph.node if n.op_type == "QuantizeLinear"}


def check_account(exported):
    """The manifest's facts against what the file holds."""
    plan, proto = exported.lowered.precision_plan, exported.proto
    steps = max(len(exported.request.sigmas or (0,)), 1)
    products = kinds(proto).count("MatMulIntegerToFloat") + kinds(proto).count("QAttention")
    assert products == steps * len(plan["integer_products"])
    # A pair on either side of each other layer, one rounding before each product that isn't attention's reader.
    codes = [i for i in proto.graph.initializer if i.data_type == INT8 and len(i.dims) >= 2]
    assert len(codes) == len(plan["int8"])
    assert not set(plan["int8"]) & set(plan["left_in_float"])
    assert plan["calibration_pictures"] == 24
    assert plan["default"] == "float32"


@pytest.mark.parametrize(("ep", "least_db", "megabytes"), [("cpu", 52.0, 8.3), ("openvino", 50.0, 12.0)])
def test_the_demo_keeps_its_pictures(demo, psnr, tmp_path, ep, least_db, megabytes):
    exported = demo("fp32")
    lowered = lower(exported.captured, OnnxOptions(precision="int8", ep=ep), tmp_path, lambda _: None)
    eight = type(exported)(exported.model, exported.request, exported.captured, lowered, tmp_path)
    scores = []
    for seed in range(16):
        inputs = eight.inputs(seed)
        scores.append(psnr(exported.run(inputs), eight.run(inputs)))
    assert np.mean(scores) >= least_db
    assert eight.path.stat().st_size < megabytes * 1e6
    check_account(eight)
    plan = lowered.precision_plan
    assert {"input_blocks.1.0.in_layers.2", "out.2", "input_blocks.4.1.qkv"} <= {*plan["int8"], *plan["left_in_float"]}
    assert "out.2" in plan["left_in_float"]
    assert ("input_blocks.4.1.qkv" in plan["int8"]) == (ep == "cpu")
    assert len(plan["int8"]) == (64 if ep == "cpu" else 42)
    assert plan["simulated_db"][0] == pytest.approx(np.mean(scores), abs=2.5)
    assert {n.domain for n in eight.proto.graph.node} == ({"", "com.microsoft"} if ep == "cpu" else {""})


@pytest.mark.parametrize(("ep", "signed"), [("arm", True), ("xnnpack", True), ("openvino", False), ("coreml", False)])
def test_portable_files_are_plain_onnx_of_the_provider_s_signedness(export, psnr, ep, signed):
    exported = export(options=OnnxOptions(precision="int8", ep=ep), **SMALL)
    assert {n.domain for n in exported.proto.graph.node} == {""}
    assert zero_points(exported.proto) == {INT8 if signed else UINT8}
    assert exported.lowered.precision_plan["activations"] == ("int8" if signed else "uint8")
    assert exported.lowered.precision_plan["integer_products"] == []
    check_account(exported)
    inputs = exported.inputs()
    for optimization in ("none", "all"):
        assert psnr(exported.reference(inputs), exported.run(inputs, optimization)) >= 35


CASES = {
    "batch 2": (SampleRequest(batch=2), {}),
    "two steps": (SampleRequest(sigmas=(80.0, 1.4)), {}),
    "baked label": (SampleRequest(label=7), SMALL),
    "inpaint": (SampleRequest(sigmas=(80.0, 1.4), task="inpaint"), SMALL),
}


@pytest.mark.parametrize("case", CASES)
def test_every_request_gives_the_picture(export, psnr, case):
    request, fields = CASES[case]
    exported = export(request, OnnxOptions(precision="int8"), **fields)
    inputs = exported.inputs()
    expected = exported.reference(inputs)
    assert np.std(expected) > 0.05
    for optimization in ("none", "all"):
        assert psnr(expected, exported.run(inputs, optimization)) >= 30, optimization
    check_account(exported)


def test_bytes_are_near_and_judged_as_such(export):
    exported = export(SampleRequest(output="uint8"), OnnxOptions(precision="int8"), **SMALL)
    floats = export(SampleRequest(), OnnxOptions(precision="int8"), **SMALL)
    inputs = exported.inputs()
    levels = np.abs(exported.run(inputs).astype(int) - exported.reference(inputs).astype(int))
    assert exported.run(inputs).dtype == np.uint8
    assert levels.mean() < 4
    one, other = (e.lowered.precision_plan["simulated_db"][0] for e in (exported, floats))
    assert one == pytest.approx(other, abs=1.5)


def test_steps_store_codes_once(export):
    one = export(SampleRequest(), OnnxOptions(precision="int8"))
    two = export(SampleRequest(sigmas=(80.0, 1.4)), OnnxOptions(precision="int8"))
    stored = [sum(np.prod(i.dims) for i in e.proto.graph.initializer if i.data_type == INT8) for e in (one, two)]
    assert stored[0] == stored[1] > 100_000
    assert two.path.stat().st_size < 1.6 * one.path.stat().st_size


def test_a_plan_decides(export, tmp_path):
    exported = export(**SMALL)
    key = "input_blocks.1.0.in_layers.2"
    sizes = {}
    for name, plan in (("default", None), ("without", PrecisionPlan({key: "float"}))):
        (tmp_path / name).mkdir()
        options = OnnxOptions(precision="int8", ep="openvino", plan=plan)
        lowered = lower(exported.captured, options, tmp_path / name, lambda _: None)
        assert (key in lowered.precision_plan["int8"]) is (plan is None)
        assert (key in lowered.precision_plan["left_in_float"]) is (plan is not None)
        sizes[name] = (tmp_path / name / lowered.files[0]).stat().st_size
    # 32 x 32 x 9 weights, three bytes each.
    assert sizes["without"] - sizes["default"] == pytest.approx(27_648, rel=0.1)


def test_attention_over_many_tokens_stays_in_float32_unless_the_plan_has_it(export, tmp_path, monkeypatch):
    exported = export(**{**SMALL, "attention_downsampling": (1,)})
    products = torch.ops.aten.scaled_dot_product_attention.default
    packed = [n for n in exported.captured.program.graph.nodes if n.target is products]
    _, heads, tokens, width = packed[0].args[0].meta["val"].shape
    channels = heads * width

    def operators(many, plan=None):
        monkeypatch.setattr(targets_int8, "MANY_TOKENS", many)
        lowered = lower(exported.captured, OnnxOptions(precision="int8", plan=plan), tmp_path, lambda _: None)
        return kinds(onnx.load(tmp_path / lowered.files[0])), lowered.precision_plan

    few, plan = operators(tokens / channels + 1)
    assert few.count("QAttention") == len(packed)
    many, without = operators(tokens / channels)
    assert many.count("Attention") == len(packed)
    assert "QAttention" not in many
    left = set(without["left_in_float"]) - set(plan["left_in_float"])
    assert len(left) == len(packed)
    named, _ = operators(tokens / channels, PrecisionPlan(dict.fromkeys([*plan["int8"], *left], "int8")))
    assert named.count("QAttention") == len(packed)


def test_without_rewrites_it_still_runs(export, psnr):
    exported = export(options=OnnxOptions(precision="int8", rewrites="none"), **SMALL)
    inputs = exported.inputs()
    assert psnr(exported.reference(inputs), exported.run(inputs)) >= 30
