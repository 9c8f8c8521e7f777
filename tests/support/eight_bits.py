"""Layers in 8 bits for tests: made-up statistics, a small network, and arithmetic written out in float64."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial

import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F
from support.networks import model_around, random_weights
from torch import fx

from cmexport.graph.capture import capture
from cmexport.graph.rewrites import REWRITES
from cmexport.graph.rewriting import apply_rewrites
from cmexport.graph.tracing import to_module
from cmexport.model import SampleRequest
from cmexport.networks.adm_unet import AdmUnet, AdmUnetConfig
from cmexport.onnxfile.saving import save
from cmexport.onnxfile.translate import translate
from cmexport.quantize.calibration import CalibrationOptions, Extremes, LayerStatistics
from cmexport.quantize.layers import Layer, WeightedOperator
from cmexport.sampling.methods import resolve
from cmexport.targets.onnx.contrib import contrib_translations
from cmexport.targets.onnx.integer.translations import integer_translations
from cmexport.targets.onnx.pairs.translations import paired_translations
from cmexport.targets.onnx.providers import OPSET

FEW = CalibrationOptions(pictures=6, gram_pictures=3)


@contextmanager
def quick_calibration(pictures=16, gram_pictures=4):
    """Few pictures tell the ranges of a tiny network, and of the demo model well enough for its gate."""
    few = partial(CalibrationOptions, pictures=pictures, gram_pictures=gram_pictures)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cmexport.quantize.int8.CalibrationOptions", few)
        yield


def random(*shape, seed=0, spread=1.0):
    return spread * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def unet(request=None, seed=0, **fields):
    """The graph of a random ADM UNet on 8x8 pictures after the general rewrites."""
    sizes = {"image_size": 8, "model_channels": 32, "channel_mult": (1, 2), "num_res_blocks": 1}
    heads = {"attention_downsampling": (2,), "num_head_channels": 32, "num_classes": 10}
    config = AdmUnetConfig(**{**sizes, **heads, **fields})
    model = model_around(random_weights(AdmUnet(config), seed), config.image_size, config.num_classes)
    request = request or SampleRequest()
    return apply_rewrites(capture(resolve(model, request)), REWRITES)


def a_layer(weight, kind="conv", role="spatial", key="a", node="n", transposed=False):
    return Layer(key, role, (node,), WeightedOperator(kind, transposed), weight)


def seen(values):
    """Extremes of one picture with this largest value per channel: nothing to extrapolate."""
    values = values.double()
    return Extremes(values.float(), values.clone(), values**2, 1)


def statistics_of(low, high, output_low, output_high, gram=None):
    return LayerStatistics((seen(high), seen(-low)), (seen(output_high), seen(-output_low)), gram)


def exact_conv(codes, x, bias=None, stride=1, padding=0):
    """A convolution of `codes` on (N, C, H, W) in whole numbers: int64 products and sums, float64 at both ends."""
    column = (1, -1, 1, 1)
    step, zero = codes.step.double().reshape(column), codes.zero_point.long().reshape(column)
    q = (torch.round((x / codes.step.reshape(column)).double()).long() + zero).clamp(0, 255) - zero
    q = F.pad(q, (padding,) * 4)
    assert bool((step > 0).all())
    kernel = codes.codes.shape[2:]
    windows = q.unfold(2, kernel[0], stride).unfold(3, kernel[1], stride)
    total = torch.einsum("nchwij,ocij->nohw", windows, codes.codes.long())
    y = total.double() * codes.weight_step.double().reshape(column) + codes.bias.double().reshape(column)
    if bias is not None:
        y = y + bias.double().reshape(column)
    return _read_back(codes, y, column)


def whole_conv(codes, x, bias=None, stride=1, padding=0):
    """As `exact_conv`, its whole numbers in float64, which holds them exactly up to 2^53: many times faster."""
    column = (1, -1, 1, 1)
    zero = codes.zero_point.double().reshape(column)
    q = (torch.round(x / codes.step.reshape(column)).double() + zero).clamp(0, 255) - zero
    total = F.conv2d(q, codes.codes.double(), None, stride, padding)
    y = total * codes.weight_step.double().reshape(column) + codes.bias.double().reshape(column)
    return _read_back(codes, y if bias is None else y + bias.double().reshape(column), column)


def exact_linear(codes, x, bias=None):
    """A linear layer of `codes` on (..., C), as `exact_conv`."""
    zero = codes.zero_point.long()
    q = (torch.round((x / codes.step).double()).long() + zero).clamp(0, 255) - zero
    total = torch.einsum("...c,oc->...o", q, codes.codes.long())
    y = total.double() * codes.weight_step.double() + codes.bias.double()
    return _read_back(codes, y if bias is None else y + bias.double(), (-1,))


def _read_back(codes, y, shape):
    if codes.output is None:
        return y
    step, zero = codes.output.step.double().reshape(shape), codes.output.zero_point.double().reshape(shape)
    return (((y / step).round() + zero).clamp(0, 255) - zero) * step


class Watching(fx.Interpreter):
    """Runs a graph; layers of `codes` are computed by `whole_conv`, and results of nodes are kept."""

    def __init__(self, captured, codes=()):
        super().__init__(to_module(captured.program))
        self.by_node = {name: c for c in codes for name in c.layer.nodes}
        self.inputs_of, self.results = {}, {}

    def run_node(self, n):
        args, _ = self.fetch_args_kwargs_from_env(n)
        if n.name in self.by_node:
            given = dict(zip(("x", "w", "bias", "stride", "padding"), args, strict=False))
            stride, padding = given.get("stride", [1])[0], given.get("padding", [0])[0]
            result = whole_conv(self.by_node[n.name], given["x"], given.get("bias"), stride, padding).float()
        else:
            result = super().run_node(n)
        if n.op == "call_function" and isinstance(result, torch.Tensor):
            self.results[n.name] = result
            self.inputs_of[n.name] = args[0]
        return result

    def draw(self, inputs):
        names = [n.name for n in self.module.graph.nodes if n.op == "placeholder"]
        with torch.no_grad():
            result = self.run(*(inputs[n] for n in names), enable_io_processing=False)
        return result[0] if isinstance(result, tuple | list) else result


def pictures(captured, seeds, codes=()):
    watching = Watching(captured, codes)
    return torch.cat([watching.draw(captured.examples(s)) for s in seeds])


def written(captured, path, translations=None):
    """The graph as an ONNX file, spelled for ONNX Runtime's CPU kernels."""
    model = translate(captured, {**contrib_translations(), **(translations or {})}, OPSET)
    save(model, captured.signature, path)
    return path


def spelled():
    return {**integer_translations(), **paired_translations()}


def run_file(path, inputs, optimization="all", optimized=None):
    """The first output, in ONNX Runtime; `optimized`: where to keep the graph that it makes of the file."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.graph_optimization_level = {
        "none": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
        "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
        "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    }[optimization]
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {n: v.numpy() for n, v in inputs.items()})[0])
