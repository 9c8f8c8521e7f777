"""One plan file, every target: which layers compute in 8 bits is read from the written files, not from our account."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from itertools import permutations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from support.networks import model_around, random_weights, tiny_config

from cmexport.graph.capture import capture
from cmexport.graph.rewrites import REWRITES
from cmexport.graph.rewriting import apply_rewrites
from cmexport.model import SampleRequest
from cmexport.networks.adm_unet import AdmUnet
from cmexport.quantize.calibration import CalibrationOptions
from cmexport.quantize.precision_plan import read_plan
from cmexport.sampling.methods import resolve
from cmexport.targets.registry import target_info, target_named

PICTURE = ("input_blocks.0.0", "out.2")
IN_8_BITS = (
    *PICTURE,
    "input_blocks.1.0.in_layers.2",
    "input_blocks.3.0.skip_connection",
    "input_blocks.3.1.qkv",
    "middle_block.1.proj_out",
    "output_blocks.0.0.in_layers.2",
)
TARGETS = {
    "onnx": ("onnx", {"ep": "cpu"}),
    "pairs": ("onnx", {"ep": "openvino"}),
    "tensorrt": ("tensorrt", {}),
    "coreml": ("coreml", {"ios": 18}),
}


@pytest.fixture(scope="module")
def model():
    # Four channels: three times 32 weights of 3x3 are too few to be a layer. One head: packing sorts rows by head.
    config = replace(tiny_config(), in_channels=4, out_channels=4, num_head_channels=64)
    return model_around(random_weights(AdmUnet(config), 0), 8, 3, channels=4)


@pytest.fixture(scope="module")
def plan(tmp_path_factory, model):
    """A plan that names every layer of the network but the time and label branches, which become tables."""
    keys = [n for n, m in model.network.named_modules() if getattr(m, "weight", None) is not None]
    keys = [k for k in keys if model.network.get_submodule(k).weight.dim() > 2 and "emb" not in k]
    lines = [f'"{key}" = "{"int8" if key in IN_8_BITS else "float"}"' for key in keys]
    path = tmp_path_factory.mktemp("plan") / "plan.toml"
    path.write_text("version = 1\n[layers]\n" + "\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def captured(model):
    return apply_rewrites(capture(resolve(model, SampleRequest(label=1))), REWRITES)


@pytest.fixture
def few_pictures(monkeypatch):
    few = partial(CalibrationOptions, pictures=8, gram_pictures=2)
    monkeypatch.setattr("cmexport.quantize.int8.CalibrationOptions", few)
    for library in ("tensorrt_rtx", "tensorrt"):
        monkeypatch.setitem(sys.modules, library, None)


def onnx_codes(folder):
    """int8 matrices that products of codes multiply by, in an ONNX file."""
    graph = onnx.load(folder / "model.onnx").graph
    stored = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}

    def dequantized(name):
        maker = makers.get(name)
        return maker.input[0] if maker is not None and maker.op_type == "DequantizeLinear" else None

    def rounded(name):
        """Codes may change their rank on the way, which keeps ONNX Runtime from moving transpositions past them."""
        while name in makers and makers[name].op_type == "Reshape":
            name = makers[name].input[0]
        return name in makers and makers[name].op_type == "QuantizeLinear"

    for node in graph.node:
        if node.op_type in ("MatMulIntegerToFloat", "QAttention"):
            yield stored[node.input[1]]
        if node.op_type in ("Conv", "MatMul", "Gemm"):
            data, weight = map(dequantized, node.input[:2])
            if rounded(data) and weight in stored:
                yield stored[weight]


def coreml_codes(folder):
    """The same of a Core ML package, as coremltools reads it."""
    import coremltools as ct
    from coremltools.converters.mil.frontend.milproto.load import load

    package = ct.models.MLModel(str(folder / "model.mlpackage"), skip_model_load=True)
    spec = package.get_spec()
    program = load(spec, spec.specificationVersion, package.weights_dir)
    for op in program.functions["main"].operations:
        if op.op_type in ("conv", "linear", "matmul"):
            data, weight = op.inputs["x" if "x" in op.inputs else "input"].op, op.inputs.get("weight")
            if data is not None and data.op_type == "dequantize" and weight.op.op_type.startswith("constexpr_"):
                codes = weight.op.inputs.get("data") or weight.op.inputs["quantized_data"]
                assert data.inputs["input"].op.op_type == "quantize"
                yield codes.val


def layer_of(codes, network):
    """The module whose weight has the codes' signs, whatever way round they are stored; steps are positive."""
    assert codes.dtype == np.int8
    flat = codes.reshape(-1)
    for name, module in network.named_modules():
        weight = getattr(module, "weight", None)
        if weight is None or weight.numel() != flat.size:
            continue
        squeezed = weight.squeeze(-1)
        for order in permutations(range(squeezed.dim())):
            signs = np.sign(squeezed.permute(order).numpy()).reshape(-1)
            if np.mean((signs == np.sign(flat))[flat != 0]) > 0.97:
                return name
    raise AssertionError(f"no layer has the signs of a matrix of {codes.shape}")


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.usefixtures("few_pictures")
def test_the_same_plan_means_the_same_layers(model, captured, plan, tmp_path, name):
    target, options = TARGETS[name]
    if target == "coreml":
        pytest.importorskip("coremltools")
    lowering = target_info(target).options(precision="int8", plan=read_plan(plan), **options)
    account = target_named(target).lower_one(captured, lowering, tmp_path, lambda _: None).precision_plan
    read = coreml_codes if target == "coreml" else onnx_codes
    found = {layer_of(codes, model.network) for codes in read(tmp_path)}
    # Runtimes that know pairs alone compute convolutions of the picture in float: what they lack is said.
    lacking = set(PICTURE) if name == "pairs" else set()
    assert found == set(IN_8_BITS) - lacking
    assert set(account["not_spelled"]) == lacking
    assert set(account["int8"]) == found
    assert not account["not_in_plan"]
