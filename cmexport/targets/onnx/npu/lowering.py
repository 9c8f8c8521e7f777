"""int8 and a16w8 for NPUs: from a captured graph and a plan to a file between pairs, and its account."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
import onnx_ir as ir

from cmexport.errors import BackendError, UsageError
from cmexport.graph.capture import CapturedGraph
from cmexport.onnxfile.saving import save
from cmexport.onnxfile.translate import translate
from cmexport.quantize.codes import PER_TENSOR, PER_TENSOR_16_BITS, LayerCodes
from cmexport.quantize.int8 import Prepared, encode_layers, finish, plan_facts, prepare
from cmexport.quantize.layers import Layer, find_layers
from cmexport.quantize.precision_plan import INT8, PrecisionPlan, check_keys
from cmexport.targets.base import LoweredModel, TellStep
from cmexport.targets.onnx.info import OnnxOptions
from cmexport.targets.onnx.npu.pairs import with_pairs
from cmexport.targets.onnx.npu.ranges import observed_ranges
from cmexport.targets.onnx.npu.translations import npu_translations
from cmexport.targets.onnx.npu.weights import put_weights
from cmexport.targets.onnx.providers import ProviderProfile

OPSET = 21
"""QuantizeLinear knows 16 bits from here on."""
ROLES = frozenset({"picture", "pointwise", "spatial"})
"""Convolutions: HTP holds a step per output channel for their weights alone."""


def is_for_npu(precision: str, profile: ProviderProfile) -> bool:
    """Whether a file of whole numbers in the NPU's form is wanted.

    Raises:
        UsageError: 16-bit activations for a provider without them.
    """
    if precision == "a16w8" and not profile.npu:
        raise UsageError("--precision a16w8: 16-bit activations are for NPUs; add --ep qnn")
    return profile.npu and precision in ("int8", "a16w8")


def lower_for_npu(
    shaped: CapturedGraph,
    options: OnnxOptions,
    profile: ProviderProfile,
    folder: Path,
    progress: TellStep,
    name: str,
) -> LoweredModel:
    """Calibrate, round, correct, put pairs around everything, and write `<name>.onnx`.

    Weights are in 8 bits, activations in 16; at "int8" the layers that the plan has in 8 bits read and write 8 bits.

    Raises:
        UsageError: a budget, which is measured in the other int8 files.
        CheckpointError: the plan names unknown layers, or something is not finite.
        BackendError: an operator has no ONNX form, or the model is too large for ONNX Runtime's tool.
        OSError: the file can't be written.
    """
    if options.budget_db is not None or options.budget_latency is not None:
        raise UsageError(f"--ep {options.ep}: budgets are measured on CPUs; give a --plan instead")
    plan = options.plan or PrecisionPlan()
    layers = find_layers(shaped)
    check_keys(plan, layers)
    narrow = {x.key for x in layers if options.precision == "int8" and plan.precision_of(x) == INT8}
    prepared, codes = _rounded(shaped, layers, plan, narrow, progress)
    model = _float_model(shaped)
    ranges = _ranges(shaped, model, prepared, progress)
    progress("quantize")
    weights = put_weights(model, layers, codes)
    in_8_bits = [node for key in narrow for node in weights.nodes.get(key, ())]
    quantized = ir.from_proto(with_pairs(model, ranges, weights, in_8_bits))
    quantized.graph.sort()
    progress("write")
    return LoweredModel(
        files=save(quantized, shaped.signature, folder / f"{name}.onnx"),
        precision_plan={
            "default": "uint16",
            "weights": "int8",
            "int8": [x.key for x in layers if x.key in narrow and x.key in weights.nodes],
            **plan_facts(plan, layers, [x.key for x in layers if x.key in narrow and x.key not in weights.nodes]),
            "calibration_pictures": prepared.calibration.pictures,
            "margin": prepared.plan.rounding.margin,
            "least_squares": prepared.plan.rounding.least_squares,
            "bias_correction": prepared.plan.bias_correction,
        },
        session=profile.session(options.ep, OPSET),
        tools={package: version(package) for package in ("torch", "onnx", "onnxscript", "onnx-ir", "onnxruntime")},
        signature=shaped.signature,
    )


def _rounded(
    captured: CapturedGraph,
    layers: tuple[Layer, ...],
    plan: PrecisionPlan,
    narrow: Collection[str],
    progress: TellStep,
) -> tuple[Prepared, tuple[LayerCodes, ...]]:
    """The convolutions' weights; all of them, since an NPU has no others."""
    everything = replace(plan, layers={x.key: INT8 for x in layers if x.role in ROLES})
    prepared = prepare(captured, everything, progress, roles=ROLES)
    codes = encode_layers(prepared, lambda x: PER_TENSOR if x.key in narrow else PER_TENSOR_16_BITS, progress)
    return prepared, finish(prepared, codes, progress).codes


def _float_model(captured: CapturedGraph) -> onnx.ModelProto:
    with TemporaryDirectory(prefix="cmexport-") as folder:
        path = Path(folder) / "float.onnx"
        if len(save(translate(captured, npu_translations(), OPSET), captured.signature, path)) > 1:
            raise BackendError(
                "--ep qnn: ONNX Runtime's tool can't quantize weights beyond 2 GB; use a smaller network"
            )
        return onnx.load(path)


def _ranges(
    captured: CapturedGraph, model: onnx.ModelProto, prepared: Prepared, progress: TellStep
) -> dict[str, tuple[float, float]]:
    margin = prepared.plan.rounding.margin
    seen = observed_ranges(model, captured, prepared.calibration.pictures, progress)
    return {name: (margin * low, margin * high) for name, (low, high) in seen.items()}
