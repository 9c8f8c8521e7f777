"""Files say the oldest version that has what they hold: older runtimes refuse a number, not an operator."""

from __future__ import annotations

import onnx
import pytest

from cmexport.targets.onnx.info import OnnxOptions

# ONNX 1.15, which ONNX Runtime 1.17 reads: the format's version 9, opset 20.
OLD = next(row for row in onnx.helper.VERSION_TABLE if row[0] == "1.15.0")


@pytest.mark.parametrize(
    "options",
    [
        {"precision": "fp32"},
        {"precision": "fp32", "rewrites": "none"},
        {"precision": "fp32", "ep": "web"},
        {"precision": "fp16"},
        {"precision": "fp16", "ep": "coreml"},
        {"precision": "int8"},
        {"precision": "w8"},
    ],
    ids=str,
)
def test_runtimes_of_onnx_1_15_take_it(export, options) -> None:
    proto = export(options=OnnxOptions(**options)).proto
    assert (proto.ir_version, {o.domain: o.version for o in proto.opset_import}[""]) == (OLD[1], OLD[2])
    # Fields that the format got with version 10 would be noise to a reader of 9.
    assert not [n.name for n in proto.graph.node if n.metadata_props or n.overload]
    assert not proto.graph.metadata_props
    assert not [v.name for v in (*proto.graph.value_info, *proto.graph.input) if v.metadata_props]


def test_4_bits_take_the_version_that_has_them(export) -> None:
    proto = export(options=OnnxOptions(precision="w4")).proto
    types = {i.data_type for i in proto.graph.initializer}
    assert onnx.TensorProto.INT4 in types
    assert proto.ir_version == 10
