"""What 16-bit arithmetic gives, on a machine without it: computed in float32, every result rounded to 16 bits.

ONNX Runtime has no kernels for bfloat16 convolutions on the CPU and refuses such a file. It takes float16, but computes
most of it in float32 and drops the casts between one such operator and the next, so that nothing is rounded there and
nothing overflows: 87 dB for the demo model, and good pictures of a network that overflows. TensorRT's kernels read 16
bits, add up in float32 and round what they write; the copy made here does the same, operator by operator.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx_ir as ir

from cmexport.errors import CheckpointError, first_line
from cmexport.onnxfile.runner import OnnxRuntimeRunner

FLOAT = ir.DataType.FLOAT
NARROW = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)

# All weights of a large model don't fit a protobuf message; they go to a file beside the copy. Small constants stay
# inside, where shape inference reads them.
_EXTERNAL = "emulated.data"
LEAST_EXTERNAL_BYTES = 100_000


def widen(model: ir.Model) -> None:
    """Let every 16-bit operator of `model` compute in float32 and round its results, in place.

    A rounded result keeps the name that the 16-bit one had.
    """
    graph = model.graph
    for value in list(graph.initializers.values()):
        if value.dtype in NARROW and value.const_value is not None:
            value.const_value = ir.Tensor(value.const_value.numpy().astype(np.float32), name=value.name)
            value.dtype = FLOAT
    for node in list(graph):
        narrow = [(output, output.dtype) for output in node.outputs if output.dtype in NARROW]
        # A cast from 16 bits gets numbers that are rounded already; of one to them, the pair below is what is left.
        if node.op_type == "Cast" and node.attributes["to"].as_int() in NARROW:
            node.attributes["to"] = ir.AttrInt64("to", FLOAT)
        for output, kind in narrow:
            assert kind is not None
            output.dtype = FLOAT
            _round(graph, node, output, kind)


def _round(graph: ir.Graph, node: ir.Node, output: ir.Value, kind: ir.DataType) -> None:
    """Put a cast to 16 bits and one back between a result and its readers."""
    readers = list(output.uses())
    name = str(output.name)
    narrow = ir.node("Cast", [output], {"to": kind}, name=f"{name}_round")
    wide = ir.node("Cast", [narrow.outputs[0]], {"to": FLOAT}, name=f"{name}_widen")
    output.name = f"{name}_exact"
    for cast, called, its in ((narrow, f"{name}_narrow", kind), (wide, name, FLOAT)):
        cast.outputs[0].name, cast.outputs[0].dtype, cast.outputs[0].shape = called, its, output.shape
    graph.insert_after(node, [narrow, wide])
    for reader, index in readers:
        reader.replace_input_with(index, wide.outputs[0])


class EmulatedHalfRunner(OnnxRuntimeRunner):
    """A file in float16 or bfloat16, in ONNX Runtime on the CPU, by way of a widened copy in the temporary folder.

    Nothing is optimized: ONNX Runtime would take a cast there and back for nothing at all.

    Raises:
        CheckpointError: the file is not a model ONNX Runtime can load.
    """

    def __init__(self, path: Path) -> None:
        try:
            model = ir.load(path)
        except OSError as error:
            raise CheckpointError(f"{path}: can't be read: {error.strerror}") from error
        except Exception as error:  # protobuf's own, which has no public name
            raise CheckpointError(f"{path}: damaged, not ONNX: {first_line(error)}") from error
        widen(model)
        with TemporaryDirectory(prefix="cmexport-half-", ignore_cleanup_errors=True) as folder:
            copy = Path(folder) / "emulated.onnx"
            ir.save(model, copy, external_data=_EXTERNAL, size_threshold_bytes=LEAST_EXTERNAL_BYTES)
            del model
            super().__init__(copy, "none")
