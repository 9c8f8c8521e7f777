from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper

from cmexport.errors import CheckpointError
from cmexport.onnxfile.emulation import EmulatedHalfRunner, widen
from cmexport.onnxfile.half import round_to_bfloat16

SHAPE = (1, 4, 6, 6)


def _model(weight):
    """float32 in, a bfloat16 convolution and sigmoid, float32 out."""
    nodes = [
        helper.make_node("Cast", ["noise"], ["x"], to=TensorProto.BFLOAT16),
        helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1]),
        helper.make_node("Sigmoid", ["y"], ["z"]),
        helper.make_node("Cast", ["z"], ["image"], to=TensorProto.FLOAT),
    ]
    values = [helper.make_tensor_value_info(n, TensorProto.BFLOAT16, SHAPE) for n in "xyz"]
    border = [[helper.make_tensor_value_info(n, TensorProto.FLOAT, SHAPE)] for n in ("noise", "image")]
    stored = helper.make_tensor("w", TensorProto.BFLOAT16, weight.shape, round_to_bfloat16(weight).tobytes(), raw=True)
    graph = helper.make_graph(nodes, "g", *border, [stored], value_info=values)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.fixture
def weight():
    return np.random.default_rng(0).standard_normal((4, 4, 3, 3)).astype(np.float32)


def test_every_result_is_rounded_as_torch_rounds_it(weight, tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save(_model(weight), path)
    noise = np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32)

    def rounded(x):
        return x.bfloat16().float()

    y = rounded(F.conv2d(rounded(torch.from_numpy(noise)), rounded(torch.from_numpy(weight)), padding=1))
    expected = rounded(torch.sigmoid(y)).numpy()
    with EmulatedHalfRunner(path) as run:
        found = run({"noise": noise})["image"]
    # Sums in another order land on the other side of a rounding now and then, one unit of the last place off.
    assert np.mean(found != expected) < 0.05
    np.testing.assert_allclose(found, expected, rtol=2**-7, atol=1e-6)
    # bfloat16 numbers only: 16 lower bits are zero.
    assert not (found.view(np.uint32) & 0xFFFF).any()
    exact = torch.sigmoid(F.conv2d(torch.from_numpy(noise), torch.from_numpy(weight), padding=1)).numpy()
    assert np.abs(found - exact).max() > 1e-4


def test_no_bfloat16_operator_but_casts_is_left(weight):
    model = ir.from_proto(_model(weight))
    widen(model)
    left = [n.op_type for n in model.graph if any(o.dtype is ir.DataType.BFLOAT16 for o in n.outputs)]
    assert set(left) == {"Cast"}
    assert len(left) == 3
    assert not [v for v in model.graph.initializers.values() if v.dtype is ir.DataType.BFLOAT16]


def test_what_is_no_model_is_refused(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(b"junk")
    with pytest.raises(CheckpointError, match=r"m\.onnx"):
        EmulatedHalfRunner(path)
