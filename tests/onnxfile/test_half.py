"""Half precision: which nodes stay in float32, what the stored numbers become, and files that load."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from cmexport.errors import BackendError
from cmexport.model import SampleRequest
from cmexport.onnxfile.half import round_to_normal_half, to_half
from cmexport.targets.onnx.info import OnnxOptions

FLOAT, FLOAT16 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16

# Every finite half that is zero or normal, ascending, in float64.
_ALL = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float64)
ALLOWED = np.unique(_ALL[np.isfinite(_ALL) & ((_ALL == 0) | (np.abs(_ALL) >= 2.0**-14))])


@settings(max_examples=200, deadline=None)
@given(
    arrays.arrays(
        np.float32,
        st.sampled_from([(7,), (2, 3), (1,), ()]),
        elements=st.one_of(
            st.floats(-65504, 65504, width=32),
            st.floats(-(2.0**-13), 2.0**-13, width=32),
            st.floats(-(2.0**-23), 2.0**-23, width=32),
        ),
    )
)
def test_numbers_become_the_nearest_normal_half(numbers):
    original = numbers.copy()
    halves, flushed = round_to_normal_half(numbers)
    assert halves.dtype == np.float16
    assert halves.shape == numbers.shape
    assert np.array_equal(numbers, original)
    assert np.isin(halves.astype(np.float64), ALLOWED).all()
    exact = numbers.astype(np.float64)
    above = np.clip(np.searchsorted(ALLOWED, exact), 0, len(ALLOWED) - 1)
    nearest = np.minimum(np.abs(ALLOWED[above] - exact), np.abs(ALLOWED[np.maximum(above - 1, 0)] - exact))
    assert np.array_equal(np.abs(halves.astype(np.float64) - exact), nearest)
    plain = np.abs(numbers.astype(np.float16).astype(np.float64))
    assert flushed == int(((plain > 0) & (plain < 2.0**-14)).sum())


def test_signs_survive_flushing():
    halves, flushed = round_to_normal_half(np.array([-5e-5, 5e-5, -1e-5, 1e-5, -1.0], np.float32))
    assert halves.tolist() == [-(2.0**-14), 2.0**-14, 0.0, 0.0, -1.0]
    assert flushed == 4


def model_of(text, **constants):
    """A model in ONNX's text form, with float32 initializers by name."""
    proto = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : 20]> {text}')
    for name, numbers in constants.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(numbers, np.float32), name))
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto, strict_mode=True))


def halved(model):
    report = to_half(model, tuple(model.graph.inputs[0].shape))
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    return proto, report


def run(proto, **inputs):
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, inputs)[0]


def kinds(proto):
    """Operator type to the element types of its outputs."""
    proto = onnx.shape_inference.infer_shapes(proto, strict_mode=True)
    types = {v.name: v.type.tensor_type.elem_type for v in (*proto.graph.value_info, *proto.graph.output)}
    return {n.op_type: types[n.output[0]] for n in proto.graph.node if n.op_type != "Cast"}


RESIZES = """
resizes (float[1,2,4,4] noise) => (float[1,2,16,16] image) {
    first = Conv<kernel_shape=[1,1]>(noise, weight)
    up = Resize<mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor">(first, , scales)
    second = Conv<kernel_shape=[1,1]>(up, weight)
    upper = Resize<mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor">(second, , scales)
    image = Conv<kernel_shape=[1,1]>(upper, weight)
}
"""


def test_resizes_that_share_their_scales_load():
    """Stock converters cast the shared constant to float16 or give two casts one name; Resize demands float32."""
    weight = np.random.default_rng(0).standard_normal((2, 2, 1, 1))
    constants = {"weight": weight, "scales": [1, 1, 2, 2]}
    noise = np.random.default_rng(1).standard_normal((1, 2, 4, 4)).astype(np.float32)
    expected = run(ir.to_proto(model_of(RESIZES, **constants)), noise=noise)
    proto, report = halved(model_of(RESIZES, **constants))
    assert {i.name: i.data_type for i in proto.graph.initializer} == {"weight_half": FLOAT16, "scales": FLOAT}
    assert report.half_nodes == 5
    assert report.casts == 2
    np.testing.assert_allclose(run(proto, noise=noise), expected, rtol=0, atol=0.02)


def test_a_large_weight_is_rounded_when_it_is_written():
    """Only what makes it again is kept: all of SDXL in half precision is 6.4 GB, beside the float32 it comes from."""
    text = "large (float[1,1024] noise) => (float[1,1024] image) { image = MatMul(noise, weight) }"
    weight = np.random.default_rng(2).standard_normal((1024, 1024)).astype(np.float32) / 32
    model = model_of(text, weight=weight)
    to_half(model, (9, 9))
    (held,) = [v.const_value for v in model.graph.initializers.values()]
    assert isinstance(held, ir.LazyTensor)
    assert held.nbytes == 2**21
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    (stored,) = proto.graph.initializer
    assert stored.data_type == FLOAT16
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(stored), round_to_normal_half(weight)[0])


NORMS = """
norms (float[1,4,8,8] noise) => (float[1,4,8,8] image) {
    first = Conv<kernel_shape=[1,1]>(noise, weight)
    normal = InstanceNormalization<epsilon=1e-5>(first, ones, zeros)
    affine = BatchNormalization<epsilon=0.0>(normal, ones, zeros, zeros, ones)
    wide = Concat<axis=1>(affine, first)
    image = Conv<kernel_shape=[1,1]>(wide, after)
}
"""
NORM_CONSTANTS = {
    "weight": np.full((4, 4, 1, 1), 0.5),
    "after": np.ones((4, 8, 1, 1)),
    "ones": [1] * 4,
    "zeros": [0] * 4,
}


def test_statistics_and_their_affine_stay_in_float32():
    proto, report = halved(model_of(NORMS, **NORM_CONSTANTS))
    found = kinds(proto)
    assert found["InstanceNormalization"] == found["BatchNormalization"] == FLOAT
    assert found["Concat"] == FLOAT16
    assert report.float_nodes == {"InstanceNormalization": 1, "BatchNormalization": 1}
    # first to float, affine to half, noise to half, image to float: one cast per value.
    assert report.casts == 4
    types = {i.name: i.data_type for i in proto.graph.initializer}
    assert types["ones"] == types["zeros"] == FLOAT


def test_every_value_is_cast_at_most_once():
    text = """
    fan (float[1,2,4,4] noise) => (float[1,2,4,4] image) {
        a = Conv<kernel_shape=[1,1]>(noise, weight)
        b = Conv<kernel_shape=[1,1]>(noise, weight)
        c = Concat<axis=1>(a, b)
        image = Conv<kernel_shape=[1,1]>(c, after)
    }
    """
    proto, report = halved(model_of(text, weight=np.ones((2, 2, 1, 1)), after=np.ones((2, 4, 1, 1))))
    casts = [n for n in proto.graph.node if n.op_type == "Cast"]
    assert len(casts) == report.casts == 2
    assert len({n.name for n in casts}) == 2
    assert len({n.output[0] for n in casts}) == 2
    assert [i.name for i in proto.graph.initializer] == ["weight_half", "after_half"]


def test_an_unknown_operator_keeps_float32():
    text = """
    unknown (float[1,2,4,4] noise) => (float[1,2,4,4] image) {
        a = Conv<kernel_shape=[1,1]>(noise, weight)
        b = Selu(a)
        image = Conv<kernel_shape=[1,1]>(b, weight)
    }
    """
    proto, report = halved(model_of(text, weight=np.ones((2, 2, 1, 1))))
    assert kinds(proto)["Selu"] == FLOAT
    assert report.float_nodes == {"Selu": 1}
    assert run(proto, noise=np.ones((1, 2, 4, 4), np.float32)).dtype == np.float32


def test_the_picture_stream_stays_in_float32():
    """c_skip x + c_out F: 0.0031 noise would lose its last bits beside F in float16."""
    text = """
    stream (float[1,2,4,4] noise) => (float[1,2,4,4] image) {
        kept = Mul(noise, skip)
        inside = Conv<kernel_shape=[1,1]>(noise, weight)
        sum = Add(kept, inside)
        image = Clip(sum, low, high)
    }
    """
    constants = {"skip": 0.0031250344, "low": -1.0, "high": 1.0, "weight": np.zeros((2, 2, 1, 1))}
    proto, report = halved(model_of(text, **constants))
    found = kinds(proto)
    assert found["Mul"] == found["Add"] == found["Clip"] == FLOAT
    assert found["Conv"] == FLOAT16
    noise = np.linspace(-1, 1, 32, dtype=np.float32).reshape(1, 2, 4, 4)
    np.testing.assert_allclose(run(proto, noise=noise), noise * np.float32(0.0031250344), rtol=1e-6, atol=0)
    assert report.float_nodes == {"Mul": 1, "Add": 1, "Clip": 1}


@pytest.mark.parametrize("number", [1e5, -7e4, np.inf, np.nan])
def test_a_constant_beyond_half_is_refused(number):
    text = """
    huge (float[1,2,4,4] noise) => (float[1,2,4,4] image) {
        image = Conv<kernel_shape=[1,1]>(noise, weight)
    }
    """
    weight = np.ones((2, 2, 1, 1))
    weight[0, 1] = number
    with pytest.raises(BackendError, match=r"fp16: constant weight .*65504.*; export in fp32") as caught:
        to_half(model_of(text, weight=weight), (1, 2, 4, 4))
    assert caught.value.exit_code == 5


TABLE = """
table (float[1,2,4,4] noise, int64[1] label) => (float[1,2,4,4] image) {
    first = Conv<kernel_shape=[1,1]>(noise, weight)
    row = Gather(scales, label)
    flat = Constant<value_ints=[-1]>()
    vector = Reshape(row, flat)
    scale, shift = Split<axis=0, num_outputs=2>(vector)
    image = InstanceNormalization<epsilon=0.1>(first, scale, shift)
}
"""


@pytest.mark.parametrize(("largest", "kind"), [(9e5, FLOAT), (6e4, FLOAT16)])
def test_a_table_beyond_half_stays_in_float32_with_what_is_picked_from_it(largest, kind):
    rows = np.array([[1, 2, 3, 4], [5, largest, 7, -8]])
    model = model_of(TABLE, weight=np.ones((2, 2, 1, 1)), scales=rows)
    inputs = {"noise": np.stack([np.eye(4, dtype=np.float32)] * 2)[None], "label": np.array([1])}
    expected = run(ir.to_proto(model), **inputs)
    proto, _ = halved(model)
    found = kinds(proto)
    assert found["Gather"] == found["Split"] == kind
    np.testing.assert_allclose(run(proto, **inputs), expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("number", [np.inf, np.nan])
def test_a_table_without_numbers_is_refused(number):
    rows = np.array([[1, 2, 3, 4], [5, number, 7, -8]])
    text = "table (int64[1] label) => (float[1,4] image) { image = Gather(scales, label) }"
    with pytest.raises(BackendError, match="fp16: constant scales "):
        to_half(model_of(text, scales=rows), (1, 2, 4, 4))


def test_subgraphs_are_refused():
    text = """
    branch (bool flag, float[2] noise) => (float[2] image) {
        image = If(flag) <
            then_branch = yes () => (float[2] a) { a = Neg(noise) },
            else_branch = no () => (float[2] b) { b = Identity(noise) }
        >
    }
    """
    with pytest.raises(BackendError, match="fp16: this graph has subgraphs"):
        to_half(model_of(text), (2,))


def half_file(export):
    return export(SampleRequest(batch=2), OnnxOptions(precision="fp16"))


def test_norms_of_a_written_file_compute_in_float32(export):
    """ONNX Runtime refuses a file whose stated types are wrong, so the stated ones can be trusted."""
    exported = half_file(export)
    exported.run(exported.inputs(), "none")
    graph = exported.proto.graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.input, *graph.output)}
    types |= {i.name: i.data_type for i in graph.initializer}
    norms = [n for n in graph.node if n.op_type in ("InstanceNormalization", "BatchNormalization")]
    assert len(norms) > 20
    for node in norms:
        assert {types[name] for name in (*node.input, *node.output)} == {FLOAT}
    convolutions = [n for n in graph.node if n.op_type == "Conv"]
    assert {types[name] for n in convolutions for name in (*n.input, *n.output)} == {FLOAT16}


def half_constants(proto):
    return {
        i.name: onnx.numpy_helper.to_array(i).astype(np.float64)
        for i in proto.graph.initializer
        if i.data_type == FLOAT16
    }


@pytest.mark.parametrize("which", ["tiny", "demo"])
def test_stored_halves_are_normal_and_small(export, demo, which):
    exported = half_file(export) if which == "tiny" else demo("fp16")
    constants = half_constants(exported.proto)
    assert len(constants) > 40
    for name, numbers in constants.items():
        magnitude = np.abs(numbers)
        assert magnitude.max() <= 1000, name
        assert not ((magnitude > 0) & (magnitude < 2.0**-14)).any(), name
    plan = exported.lowered.precision_plan
    assert plan["default"] == "float16"
    assert plan["largest_constant"] == max(np.abs(n).max() for n in constants.values())
    assert plan["flushed_weights"] > 0
    assert plan["casts"] == sum(n.op_type == "Cast" for n in exported.proto.graph.node)
    assert plan["kept_float32"]["InstanceNormalization"] == sum(
        n.op_type == "InstanceNormalization" for n in exported.proto.graph.node
    )


def test_weights_stored_as_float32_are_few(export):
    graph = half_file(export).proto.graph
    kept = sum(np.prod(i.dims) for i in graph.initializer if i.data_type == FLOAT)
    half = sum(np.prod(i.dims) for i in graph.initializer if i.data_type == FLOAT16)
    assert kept < 0.01 * half
