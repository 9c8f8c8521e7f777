from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch

from cmexport.graph.tracing import to_module
from cmexport.onnxfile.translate import translate
from cmexport.quantize.centred.insertion import with_centred_layers
from cmexport.targets.tensorrt.centred import centred_translations
from cmexport.targets.tensorrt.translations import OPSET, tensorrt_translations


@pytest.fixture(scope="module")
def model(graph, codes):
    changed = with_centred_layers(graph, codes)
    return changed, translate(changed, {**tensorrt_translations(), **centred_translations()}, OPSET)


# With its optimizer ONNX Runtime refused the linear layer: three dimensions, as in diffusers' attention.
@pytest.mark.parametrize("optimization", ["ORT_DISABLE_ALL", "ORT_ENABLE_ALL"])
def test_onnx_computes_what_the_operators_do(model, noise, optimization):
    changed, written = model
    with torch.no_grad():
        expected = to_module(changed.program)(noise=noise).numpy()
    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, optimization)
    session = ort.InferenceSession(ir.to_proto(written).SerializeToString(), options)
    found = session.run(None, {"noise": noise.numpy()})[0]
    # Sums in another order turn a code over here and there.
    assert np.sqrt(np.mean((found - expected) ** 2)) < 1e-3 * np.abs(expected).max()


def test_every_layer_is_between_pairs_and_reads_stored_integers(model):
    graph = model[1].graph
    kinds = Counter(node.op_type for node in graph)
    assert kinds["QuantizeLinear"] == 3
    assert kinds["DequantizeLinear"] == 6
    assert kinds["Pad"] == 2
    for node in graph:
        if node.op_type in ("Conv", "MatMul"):
            data, weight = (node.inputs[i].producer() for i in (0, 1))
            assert data.op_type == weight.op_type == "DequantizeLinear"
            assert weight.inputs[0].dtype is ir.DataType.INT8
            assert not any(node.attributes["pads"].as_ints() if "pads" in node.attributes else ())
            assert not data.inputs[2].const_value.numpy().any()
            assert data.inputs[1].const_value.numpy().shape == ()
