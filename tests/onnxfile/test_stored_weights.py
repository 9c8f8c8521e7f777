"""Weights alone in few bits: what is stored, what it is read back as, and that ONNX Runtime reads it the same."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx.reference import ReferenceEvaluator

from cmexport.onnxfile.runner import OnnxRuntimeRunner
from cmexport.onnxfile.stored_weights import store_weights
from cmexport.targets.onnx.info import OnnxOptions

NETWORK = """
<ir_version: 10, opset_import: ["" : 20]>
small (float[1,64,6,6] noise) => (float[1,64,16] image)
<float[64,64,3,3] kernel, float[36,16] matrix, float[3] few>
{
    a = Conv <pads = [1,1,1,1]> (noise, kernel)
    shape = Constant <value_ints = [1, 64, 36]> ()
    b = Reshape (a, shape)
    image = MatMul (b, matrix)
}
"""


def small_model():
    model = onnx.parser.parse_model(NETWORK)
    drawn = np.random.default_rng(0)
    arrays = {
        "kernel": drawn.standard_normal((64, 64, 3, 3)).astype(np.float32) * np.arange(1, 65).reshape(-1, 1, 1, 1) / 64,
        "matrix": drawn.standard_normal((36, 16)).astype(np.float32),
        "few": np.ones(3, np.float32),
    }
    del model.graph.initializer[:]
    model.graph.initializer.extend(onnx.numpy_helper.from_array(a.astype(np.float32), n) for n, a in arrays.items())
    return ir.from_proto(model), {name: array.astype(np.float32) for name, array in arrays.items()}


def read_back(model, name):
    """The stored weight through DequantizeLinear, by ONNX's own reference."""
    proto = ir.to_proto(model)
    node = next(n for n in proto.graph.node if n.output[0] == f"{name}_read")
    inputs = {i.name: i for i in proto.graph.initializer if i.name in node.input}
    out = onnx.helper.make_tensor_value_info(node.output[0], onnx.TensorProto.FLOAT, None)
    graph = onnx.helper.make_graph([node], "one", [], [out], list(inputs.values()))
    alone = onnx.helper.make_model(graph, opset_imports=proto.opset_import, ir_version=10)
    return ReferenceEvaluator(alone).run(None, {})[0]


def test_eight_bits_have_one_scale_per_output_channel():
    model, arrays = small_model()
    report = store_weights(model, 8)
    assert (report.tensors, report.elements, report.bits) == (1, 36_864, 8)
    back = read_back(model, "kernel")
    top = np.abs(arrays["kernel"]).max(axis=(1, 2, 3), keepdims=True)
    assert (np.abs(back - arrays["kernel"]) <= top / 254 * 1.001).all()
    # Small weights, and the matrix of 576 numbers, stay as they are.
    assert "matrix" in model.graph.initializers
    assert "kernel" not in model.graph.initializers


def test_four_bits_have_one_scale_per_block_of_32_summed_channels():
    model, arrays = small_model()
    store_weights(model, 4)
    assert model.opset_imports[""] == 21
    back = read_back(model, "kernel")
    blocks = np.abs(arrays["kernel"]).reshape(64, 2, 32, 3, 3).max(axis=2, keepdims=True)
    bound = np.broadcast_to(blocks / 14 * 1.001, (64, 2, 32, 3, 3)).reshape(64, 64, 3, 3)
    assert (np.abs(back - arrays["kernel"]) <= bound).all()
    # Worse than 8 bits, or nothing was saved.
    assert np.abs(back - arrays["kernel"]).max() > np.abs(arrays["kernel"]).max() / 254


@pytest.mark.parametrize(("precision", "most", "least_db"), [("w8", 0.30, 52), ("w4", 0.19, 30)])
def test_the_demo_model_shrinks_and_keeps_its_gate(demo, psnr, precision, most, least_db):
    written, full = demo(precision), demo("fp32")
    assert written.path.stat().st_size <= most * full.path.stat().st_size
    scores = []
    for seed in range(4):
        inputs = written.inputs(seed)
        scores.append(psnr(full.run(inputs), written.run(inputs)))
        assert psnr(written.run(inputs, "none"), written.run(inputs)) > 80
    assert np.mean(scores) >= least_db
    assert written.lowered.precision_plan["weights_only"]["bits"] == int(precision[1])


def test_options_reach_the_file(export):
    written = export(options=OnnxOptions(precision="w8"), model_channels=32)
    types = {i.data_type for i in written.proto.graph.initializer}
    assert onnx.TensorProto.INT8 in types
    with OnnxRuntimeRunner(written.path, threads=1) as run:
        assert np.isfinite(run(written.inputs())["image"]).all()


def test_weights_on_a_grid_keep_their_steps():
    model, _ = small_model()
    drawn = np.random.default_rng(1)
    codes = drawn.integers(-120, 121, (64, 64, 3, 3)).astype(np.float32)
    steps = drawn.uniform(1e-3, 2e-3, (64, 1, 1, 1)).astype(np.float32)
    model.graph.initializers["kernel"].const_value = ir.Tensor(codes * steps)
    store_weights(model, 8)
    np.testing.assert_allclose(read_back(model, "kernel"), codes * steps, rtol=1e-6)


@pytest.mark.parametrize("bits", [8, 4])
def test_weights_that_were_chosen_meet_unrounded_numbers(bits, tmp_path):
    """ONNX Runtime would round what they are multiplied by, if it could join the product with the reading."""
    proto = onnx.parser.parse_model(
        """
        <ir_version: 10, opset_import: ["" : 20]>
        product (float[1,64,64] x) => (float[1,64,64] image) <float[64,64] matrix> { image = MatMul (x, matrix) }
        """
    )
    drawn = np.random.default_rng(0)
    top = 127 if bits == 8 else 7
    codes = drawn.integers(-top, top + 1, (64, 64))
    codes[0] = top
    matrix = (codes * drawn.uniform(1e-3, 2e-3, 64).astype(np.float16).astype(np.float32)).astype(np.float32)
    x = drawn.standard_normal((1, 64, 64)).astype(np.float32)
    for chosen in (True, False):
        del proto.graph.initializer[:]
        proto.graph.initializer.append(onnx.numpy_helper.from_array(matrix, "matrix"))
        model = ir.from_proto(proto)
        store_weights(model, bits, block=64, chosen=chosen)
        ir.save(model, tmp_path / "model.onnx")
        options = ort.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / f"{chosen}.onnx")
        (image,) = ort.InferenceSession(tmp_path / "model.onnx", options).run(None, {"x": x})
        joined = "MatMulNBits" in {node.op_type for node in onnx.load(tmp_path / f"{chosen}.onnx").graph.node}
        assert joined != chosen
        error = np.abs(image - x @ matrix).max() / np.abs(image).max()
        assert error < 1e-3 if chosen else error > 2e-3


def test_tables_are_kept_in_half_precision():
    text = """
    <ir_version: 10, opset_import: ["" : 20]>
    rows (int64[2] index) => (float[2,64] image) <float[100,64] table> {
        taken = Gather (table, index)
        image = Neg (taken)
    }
    """
    proto = onnx.parser.parse_model(text)
    table = np.random.default_rng(0).standard_normal((100, 64)).astype(np.float32)
    del proto.graph.initializer[:]
    proto.graph.initializer.append(onnx.numpy_helper.from_array(table, "table"))
    model = ir.from_proto(proto)
    store_weights(model, 8)
    stored = ir.to_proto(model)
    onnx.checker.check_model(stored, full_check=True)
    assert [i.data_type for i in stored.graph.initializer] == [onnx.TensorProto.FLOAT16]
    (image,) = ReferenceEvaluator(stored).run(None, {"index": np.array([3, 99])})
    assert image.dtype == np.float32
    np.testing.assert_array_equal(image, -table.astype(np.float16)[[3, 99]].astype(np.float32))
