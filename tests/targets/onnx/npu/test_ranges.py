"""Ranges of every tensor, against the same pictures drawn with every tensor an output."""

from __future__ import annotations

import onnx
import onnxruntime as ort
import pytest

from cmexport.errors import CheckpointError
from cmexport.targets.onnx.npu.ranges import observed_ranges

SMALL = {"channel_mult": (1,), "attention_downsampling": (), "num_head_channels": 16}


def drawn_limits(proto, captured, seeds):
    """Smallest and largest value of each float tensor, every one of them an output."""
    shaped = onnx.shape_inference.infer_shapes(proto)
    values = [v for v in shaped.graph.value_info if v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT]
    shaped.graph.output.extend(values)
    session = ort.InferenceSession(shaped.SerializeToString(), providers=["CPUExecutionProvider"])
    names = ["image", *(v.name for v in values)]
    found = {}
    for seed in seeds:
        inputs = {k: v.numpy() for k, v in captured.examples(seed).items()}
        for name, value in zip(names, session.run(names, inputs), strict=True):
            low, high = found.get(name, (0.0, 0.0))
            found[name] = (min(low, value.min()), max(high, value.max()))
    return found


def test_ranges_hold_what_was_drawn_and_not_much_more(export):
    exported = export(**SMALL)
    found = observed_ranges(exported.proto, exported.captured, 24, lambda _: None, seed=5)
    drawn = drawn_limits(exported.proto, exported.captured, range(5, 29))
    assert set(drawn) <= set(found)
    assert len(drawn) > 60
    for name, (lowest, highest) in drawn.items():
        low, high = found[name]
        slack = 1e-4 * (highest - lowest)
        assert low <= lowest + slack, name
        assert high >= highest - slack, name
        assert high - low <= 2.5 * (highest - lowest), name
    assert found["image"] == (-1.0, 1.0)
    assert all(low == 0 and 0.5 < high <= 1 for low, high in sigmoids(exported.proto, found))


def sigmoids(proto, found):
    return [found[n.output[0]] for n in proto.graph.node if n.op_type == "Sigmoid"]


def test_what_is_not_finite_is_named(export):
    exported = export(**SMALL)
    proto = exported.proto
    (bias,) = [i for i in proto.graph.initializer if i.name == "network.input_blocks.0.0.bias"]
    bias.raw_data = b"\x00\x00\xc0\x7f" * bias.dims[0]
    with pytest.raises(CheckpointError, match="calibration: conv2d is NaN"):
        observed_ranges(proto, exported.captured, 2, lambda _: None)
