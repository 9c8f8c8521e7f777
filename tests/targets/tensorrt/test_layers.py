from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmexport.errors import CheckpointError
from cmexport.targets.tensorrt.layers import (
    EngineLayers,
    layers_path,
    parse_layers,
    read_layers,
    summary,
    write_layers,
)

# As TensorRT for RTX 1.7.1 logs them, numbers shortened.
HALF = (
    "Name: node_conv2d_69_myl0_238, LayerType: correlation, Inputs: [ { Name: conv2d_69.1_355_myl0, Dimensions: "
    "[1,128,32,32], Strides: [131072,1,4096,128], StrideOrder: [3,0,2,1], Datatype: Half, Format: (NHWC) Channel major "
    "format }, { Name: add_30, Dimensions: [1,64,32,32], Strides: [65536,1,2048,64], StrideOrder: [3,0,2,1], Datatype: "
    "Half, Format: (NHWC) Channel major format }], Constants: [ { Name: __mye1, Dimensions: [64,128,3,3], Strides: "
    "[1152,1,384,128], StrideOrder: [3,0,2,1], Datatype: Half, Format: (NHWC) Channel major format }, { Name: __mye2, "
    "Dimensions: [1], Strides: [1], StrideOrder: [0], Datatype: Float, Format: (Linear) Row major linear format }], "
    "Outputs: [ { Name: image, Dimensions: [1,64,32,32], Strides: [65536,1,2048,64], StrideOrder: [3,0,2,1], Datatype: "
    "Half, Format: (NHWC) Channel major format }], TacticName: __myelin_CASK_STUB, StreamId: 0, Metadata: "
    "[ONNX Layer: node_conv2d_69][ONNX Layer: node_add_30]"
)
WAIT = (
    "Name: __mye73516_myl0_41, LayerType: wait, Inputs: [], Constants: [], Outputs: [], TacticName: , StreamId: 1, "
    "EventId: 1, Metadata: "
)


def _layer(inputs, outputs, operators="a"):
    def tensors(kinds):
        return ", ".join(f"{{ Name: t{i}, Dimensions: {d}, Datatype: {k} }}" for i, (k, d) in enumerate(kinds))

    return (
        f"Name: n, LayerType: kgen, Inputs: [ {tensors(inputs)}], Constants: [], Outputs: [ {tensors(outputs)}], "
        f"TacticName: t, StreamId: 0, Metadata: [ONNX Layer: {operators}]"
    )


def test_a_layer_is_read_with_its_tensors_and_what_was_fused():
    (layer,) = parse_layers(f"Layers:\n{HALF}\n\nI/O Tensors:\n Name: noise, IOMode: Input\n")
    assert (layer.name, layer.kind, layer.tactic) == ("node_conv2d_69_myl0_238", "correlation", "__myelin_CASK_STUB")
    assert [t.shape for t in layer.inputs] == [(1, 128, 32, 32), (1, 64, 32, 32)]
    assert [(t.name, t.shape, t.type) for t in layer.constants] == [
        ("__mye1", (64, 128, 3, 3), "Half"),
        ("__mye2", (1,), "Float"),
    ]
    assert layer.outputs[0].name == "image"
    assert layer.operators == ("node_conv2d_69", "node_add_30")
    assert layer.precision == "fp16"


def test_synchronization_is_a_layer_without_numbers():
    (layer,) = parse_layers(WAIT)
    assert (layer.kind, layer.tactic, layer.inputs, layer.operators, layer.precision) == ("wait", "", (), (), None)


@pytest.mark.parametrize(
    ("inputs", "outputs", "precision"),
    [
        ([("Int8", "[1,4,8,8]")], [("Float", "[1,4,8,8]")], "int8"),
        ([("FP8", "[1,4,8,8]")], [("Half", "[1,4,8,8]")], "fp8"),
        ([("BFloat16", "[1,4,8,8]")], [("BFloat16", "[1,4,8,8]")], "bf16"),
        ([("Float", "[1,4,8,8]")], [("Float", "[1,4,8,8]")], "fp32"),
        # A half-precision scale beside float32 pictures does not make the arithmetic half precision.
        ([("Float", "[1,4,8,8]"), ("Half", "[4]")], [("Float", "[1,4,8,8]")], "fp32"),
        ([("Int64", "[1]")], [("Int32", "[64]")], None),
    ],
)
def test_precision_is_the_narrowest_type_of_the_data(inputs, outputs, precision):
    (layer,) = parse_layers(_layer(inputs, outputs))
    assert layer.precision == precision


def _engine(*lines):
    return EngineLayers(
        engine="model.engine",
        library="TensorRT for RTX 1.7.1",
        bytes=10,
        weights_bytes=5,
        activation_bytes=None,
        layers=parse_layers("\n".join(lines)),
    )


def test_float32_layers_are_listed_unless_they_were_asked_for():
    wide = [("Float", "[1,4,8,8]")]
    found = _engine(HALF, WAIT, _layer(wide, wide, "norm"), _layer(wide, wide, "pool"))
    assert found.by_precision() == {"fp32": 2, "fp16": 1}
    assert summary(found, "fp16", ())["float32_fallbacks"] == ["n: norm", "n: pool"]
    assert summary(found, "fp16", ("norm",))["float32_fallbacks"] == ["n: pool"]
    assert summary(found, "fp32", ())["float32_fallbacks"] == []
    assert summary(found, "fp16", (), ["norm"])["float32_fallbacks"] == ["n: pool"]


def test_a_description_comes_back_as_it_was_written(tmp_path):
    found = _engine(HALF, WAIT)
    path = write_layers(found, tmp_path / "model.engine")
    assert path == layers_path(tmp_path / "model.engine") == tmp_path / "model.layers.json"
    assert read_layers(path) == found


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"layers": []}', "null", '"x"', "[" * 100_000])
def test_damaged_descriptions_are_refused(tmp_path, damage):
    path = tmp_path / "model.layers.json"
    path.write_text(damage)
    with pytest.raises(CheckpointError, match="damaged"):
        read_layers(path)


def test_a_missing_description_and_one_without_layers(tmp_path):
    with pytest.raises(CheckpointError, match="can't be read"):
        read_layers(tmp_path / "none.layers.json")
    path = write_layers(_engine(HALF), tmp_path / "model.engine")
    path.write_text(json.dumps({**json.loads(path.read_text()), "layers": []}))
    with pytest.raises(CheckpointError, match="damaged"):
        read_layers(path)


@given(st.integers(0, len(HALF)), st.text(max_size=20))
def test_a_line_cut_anywhere_gives_a_layer_or_none(cut, rest):
    for layer in parse_layers(HALF[:cut] + rest):
        assert layer.name
        assert all(side >= 0 for t in (*layer.inputs, *layer.outputs) for side in t.shape)
