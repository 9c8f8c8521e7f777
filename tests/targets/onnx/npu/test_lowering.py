"""Files for NPUs on the CPU: all between pairs of one step, the plan carried out, pictures within gates."""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from cmexport.errors import CheckpointError, UsageError
from cmexport.model import SampleRequest
from cmexport.quantize import int8
from cmexport.quantize.calibration import CalibrationOptions
from cmexport.quantize.precision_plan import PrecisionPlan
from cmexport.targets.onnx.info import OnnxOptions
from cmexport.targets.onnx.lower import lower

SMALL = {"channel_mult": (1,), "attention_downsampling": (), "num_head_channels": 16}
UINT8, UINT16, INT8, INT32 = (getattr(onnx.TensorProto, kind) for kind in ("UINT8", "UINT16", "INT8", "INT32"))
KEY = "input_blocks.1.0.in_layers.2"


@pytest.fixture(autouse=True, scope="module")
def _few_pictures():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(int8, "CalibrationOptions", partial(CalibrationOptions, pictures=24, gram_pictures=4))
        yield


def stored_by_name(proto):
    return {i.name: i for i in proto.graph.initializer}


def test_nothing_computes_outside_pairs_and_activations_have_one_step(export):
    proto = export(options=OnnxOptions(precision="a16w8", ep="qnn")).proto
    stored = stored_by_name(proto)
    written = {name: n for n in proto.graph.node for name in n.output}
    readers = {}
    for node in proto.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.op_type)
    assert {n.domain for n in proto.graph.node} == {""}
    assert {o.version for o in proto.opset_import if not o.domain} == {21}
    assert proto.ir_version == 9, "only 4-bit types need a later one"
    for node in proto.graph.node:
        if node.op_type == "QuantizeLinear":
            assert numpy_helper.to_array(stored[node.input[1]]).size == 1
            assert stored[node.input[2]].data_type == UINT16
        elif node.op_type == "DequantizeLinear":
            kind = stored[node.input[0]].data_type if node.input[0] in stored else UINT16
            steps = numpy_helper.to_array(stored[node.input[1]]).size
            assert steps == 1 or kind in (INT8, INT32)
        else:
            floats = [i for i in node.input if i in stored and stored[i].data_type == onnx.TensorProto.FLOAT]
            assert not floats or node.op_type == "Resize", node.name
            computed = [written[i].op_type for i in node.input if i in written]
            assert set(computed) == {"DequantizeLinear"}, node.name
            for name in node.output:
                assert set(readers.get(name, ["QuantizeLinear"])) == {"QuantizeLinear"}, node.name


def kinds_around(proto, key):
    """Types of the codes that the convolution of a layer reads and writes."""
    stored = stored_by_name(proto)
    written = {name: n for n in proto.graph.node for name in n.output}
    (conv,) = [n for n in proto.graph.node if n.op_type == "Conv" and n.input[1].startswith(f"network.{key}.weight")]
    (after,) = [n for n in proto.graph.node if conv.output[0] in n.input]
    return tuple(stored[n.input[2]].data_type for n in (written[conv.input[0]], after))


def test_the_plan_says_which_convolutions_read_and_write_8_bits(export, psnr, tmp_path):
    exported = export(**SMALL)
    # One picture of a random network can gain by chance what a layer in 8 bits costs.
    inputs = [exported.inputs(seed) for seed in range(11, 19)]
    scores = {}
    for name, plan in {"default": None, "wide": PrecisionPlan({KEY: "float"})}.items():
        (tmp_path / name).mkdir()
        options = OnnxOptions(precision="int8", ep="qnn", plan=plan)
        lowered = lower(exported.captured, options, tmp_path / name, lambda _: None)
        written = type(exported)(exported.model, exported.request, exported.captured, lowered, tmp_path / name)
        narrow = plan is None
        assert kinds_around(written.proto, KEY) == ((UINT8, UINT8) if narrow else (UINT16, UINT16))
        assert kinds_around(written.proto, "output_blocks.0.0.skip_connection") == (UINT16, UINT16)
        assert (KEY in lowered.precision_plan["int8"]) is narrow
        scores[name] = sum(psnr(exported.reference(given), written.run(given)) for given in inputs) / len(inputs)
    assert 38 <= scores["default"] < scores["wide"]


def test_weights_are_the_rounded_ones_and_keep_every_code(export):
    proto = export(options=OnnxOptions(precision="a16w8", ep="qnn"), **SMALL).proto
    codes = {
        i.name: numpy_helper.to_array(i) for i in proto.graph.initializer if i.data_type == INT8 and len(i.dims) == 4
    }
    assert len(codes) == sum(n.op_type == "Conv" for n in proto.graph.node)
    for values in codes.values():
        assert values.min() >= -127
        assert values.max() <= 127
        # Least squares moves a row's largest element by a code at most: a step taken from it anew would show here.
        assert (np.abs(values.astype(int)).reshape(len(values), -1).max(axis=1) >= 120).all()


CASES = {
    "two steps": (SampleRequest(sigmas=(80.0, 1.4)), {}),
    "batch 2, bytes": (SampleRequest(batch=2, output="uint8"), {}),
    "inpaint, baked label": (SampleRequest(sigmas=(80.0, 1.4), task="inpaint", label=3), SMALL),
    "no labels": (SampleRequest(), {**SMALL, "num_classes": None}),
}


@pytest.mark.parametrize("case", CASES)
def test_every_request_gives_the_picture(export, psnr, case):
    request, fields = CASES[case]
    exported = export(request, OnnxOptions(precision="a16w8", ep="qnn"), **fields)
    inputs = exported.inputs()
    for optimization in ("none", "all"):
        expected, drawn = exported.reference(inputs), exported.run(inputs, optimization)
        if drawn.dtype == np.uint8:
            assert np.abs(drawn.astype(int) - expected).max() <= 6
            expected, drawn = (picture / 127.5 - 1 for picture in (expected, drawn))
        assert np.std(expected) > 0.05
        assert psnr(expected, drawn) >= 46, optimization


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"precision": "a16w8", "ep": "cpu"}, UsageError),
        ({"precision": "int8", "ep": "qnn", "budget_db": 50.0}, UsageError),
        ({"precision": "int8", "ep": "qnn", "plan": PrecisionPlan({"input_blocks.9": "int8"})}, CheckpointError),
    ],
)
def test_what_cannot_be_is_refused(export, tmp_path, fields, error):
    exported = export(**SMALL)
    with pytest.raises(error):
        lower(exported.captured, OnnxOptions(**fields), tmp_path, lambda _: None)
    assert not list(tmp_path.iterdir())
