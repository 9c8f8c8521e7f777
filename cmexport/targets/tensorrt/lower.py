"""Lower a captured graph to typed ONNX and, where a TensorRT is installed, to an engine."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx_ir as ir

from cmexport.errors import BackendError, UsageError
from cmexport.graph.capture import AMPLIFYING, CapturedGraph
from cmexport.onnxfile.half import BFLOAT, HALF, HalfReport, to_half
from cmexport.onnxfile.saving import save
from cmexport.onnxfile.translate import translate
from cmexport.parity.keeping import AUTO, Kept
from cmexport.quantize.centred.insertion import to_int8
from cmexport.quantize.precision_plan import PrecisionPlan
from cmexport.targets.base import LoweredModel, TellStep
from cmexport.targets.tensorrt.batches import batch_name, rebatch
from cmexport.targets.tensorrt.centred import centred_translations
from cmexport.targets.tensorrt.engine import EngineRequest, build_engine, engine_request
from cmexport.targets.tensorrt.float8 import float8_translations, plan_float8, store_weights, with_pairs
from cmexport.targets.tensorrt.info import TensorRtOptions
from cmexport.targets.tensorrt.keeping import check_names, find_kept
from cmexport.targets.tensorrt.layers import layers_path, summary
from cmexport.targets.tensorrt.library import Library, find_library
from cmexport.targets.tensorrt.translations import OPSET, tensorrt_translations

_HALF = {"fp16": HALF, "bf16": BFLOAT, "int8": HALF, "fp8": HALF}
_DEFAULT = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "int8": "float16", "fp8": "float16"}

# TensorRT computes the statistics of a group normalization in float32 whatever its data is, and so does ONNX Runtime;
# quantizing and dequantizing half precision has half-precision scales.
_ALSO_HALF = ("GroupNormalization", "QuantizeLinear", "DequantizeLinear")

NO_LIBRARY = "no TensorRT is installed here: typed ONNX only"


def check(options: TensorRtOptions) -> tuple[Library | None, EngineRequest | None]:
    """Refuse what can't be done before anything is captured; the library and what it is to build.

    Both are None where no TensorRT is installed: the typed ONNX is a result of its own.

    Raises:
        UsageError: an option that is unknown, or that this library doesn't have.
        BackendError: a library that was asked for, or that an option needs, isn't installed.
    """
    if options.keep_fp32 and options.precision == "fp32":
        raise UsageError("--keep-fp32: everything is float32 without another precision; add --fp16, say")
    if options.keep_fp32 == AUTO and options.precision == "bf16":
        raise UsageError("--keep-fp32 auto: bfloat16 has float32's range, nothing overflows; name operators to keep")
    if options.plan is not None and options.precision != "int8":
        raise UsageError(f"--plan: it says what is computed in 8-bit integers, and this is {options.precision}")
    library = find_library(options.trt)
    if library is None:
        for_engines = ("sm", "compat", "timing_cache", "refit", "strip")
        if asked := [f"--{name.replace('_', '-')}" for name in for_engines if getattr(options, name)]:
            raise BackendError(
                f"{asked[0]} is for engines, and no TensorRT is installed: pip install 'cmexport[tensorrt]'"
            )
        return None, None
    return library, engine_request(library, options)


def has_halfs_range(precision: str) -> bool:
    """Whether a precision computes in float16, which ends at 65,504."""
    return _HALF.get(precision) is HALF


def lower(
    captured: CapturedGraph, options: TensorRtOptions, folder: Path, progress: TellStep, name: str = "model"
) -> LoweredModel:
    """Write `<name>.onnx` (and its data beyond 2 GB) into `folder`; with a TensorRT `<name>.engine`, and its layers.

    For several `options.batches`, of which the first is the captured graph's, there is one of each for every batch,
    named `<name>-b<N>`.

    Raises:
        UsageError: see `check`; also a name to keep in float32 that no operator has.
        CheckpointError: TensorRT can't parse the ONNX file; for int8, see `quantize.centred`.
        BackendError: an operator has no ONNX form, or the library refuses the network.
        OSError: a file can't be written.
    """
    library, request = check(options)
    model, quantized = _typed(captured, options, progress)
    plan: dict[str, Any] = {"default": _DEFAULT[options.precision], "border": "float32", **quantized}
    kept: tuple[str, ...] = ()
    if options.precision in _HALF:
        model, report, keeping = _halved(model, captured, options, progress)
        kept = keeping.names
        facts = asdict(report)
        plan |= {"float32_operators": facts.pop("float_nodes"), **facts, **keeping.facts()}
    progress("write")
    own = batch_name(name, options.batches[0]) if len(options.batches) > 1 else name
    onnx_file = folder / f"{own}.onnx"
    files = list(save(model, captured.signature, onnx_file))
    operators = {str(n.outputs[0].name): str(n.name) for n in model.graph}
    norms = [str(n.name) for n in model.graph if n.op_type == "GroupNormalization"]
    del model
    batches = {onnx_file: own}
    for batch in options.batches[1:]:
        progress(f"batch {batch}")
        other = rebatch(onnx_file, batch_name(name, batch), batch)
        files += other
        batches[folder / other[0]] = batch_name(name, batch)
    engines: list[dict[str, Any]] = []
    if library is not None and request is not None:
        for path, stem in batches.items():
            built = build_engine(library, path, request, folder / f"{stem}.engine", progress)
            files += [built.path.name, *([layers_path(built.path).name] if built.layers else [])]
            asked = [operators.get(k, k) for k in kept]
            found = {} if built.layers is None else summary(built.layers, options.precision, asked, norms)
            engines.append({"onnx": path.name, **built.facts, **found})
    return LoweredModel(
        files=tuple(files),
        precision_plan=plan,
        session={
            "ep": "tensorrt",
            "opset": OPSET,
            "half": "" if options.precision == "fp32" else _DEFAULT[options.precision],
            "trt": "" if library is None else "rtx" if library.rtx else library.version.split(".")[0],
            "library": NO_LIBRARY if library is None else library.title,
            "engines": engines,
        },
        tools={
            **{package: version(package) for package in ("torch", "onnx", "onnxscript", "onnx-ir", "onnxruntime")},
            **({} if library is None else {"tensorrt_rtx" if library.rtx else "tensorrt": library.version}),
        },
        signature=captured.signature,
    )


def _typed(captured: CapturedGraph, options: TensorRtOptions, progress: TellStep) -> tuple[ir.Model, Mapping[str, Any]]:
    """The model in float32, with Q/DQ pairs where 8 bits are asked for; and what was quantized."""
    plain = options.rewrites == "none"
    graph, facts = captured, dict[str, Any]()
    translations = {} if plain else tensorrt_translations()
    match options.precision:
        case "int8":
            graph, facts = to_int8(captured, options.plan or PrecisionPlan(), progress)
            translations = {**translations, **centred_translations()}
        case "fp8":
            plan = plan_float8(captured, progress)
            graph = with_pairs(captured, plan.scales)
            facts = {"activations": {"quantized": len(plan.scales), "left_in_float16": list(plan.left)}}
            translations = {**translations, **float8_translations()}
    progress("translate to ONNX")
    model = translate(graph, translations, OPSET, tidy=plain)
    if options.precision == "fp8":
        facts["weights"] = {"quantized": store_weights(model), "format": "float8e4m3fn"}
    return model, facts


def _halved(
    model: ir.Model, captured: CapturedGraph, options: TensorRtOptions, progress: TellStep
) -> tuple[ir.Model, HalfReport, Kept]:
    kind, sample = _HALF[options.precision], captured.signature.sample.shape
    wide = captured.amplification > AMPLIFYING

    def halve(model: ir.Model, names: Collection[str]) -> HalfReport:
        return to_half(model, sample, kind, names, _ALSO_HALF, wide_answers=wide)

    if options.keep_fp32 != AUTO:
        check_names(model, options.keep_fp32)
        progress("half precision")
        kept = Kept(options.keep_fp32, "named by --keep-fp32") if options.keep_fp32 else Kept()
        return model, halve(model, kept.names), kept
    with TemporaryDirectory(prefix="cmexport-wide-", ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "wide.onnx"
        save(model, captured.signature, path, keep_weights=True)

        def make_half(names: frozenset[str]) -> ir.Model:
            copy = ir.load(path)
            halve(copy, names)
            return copy

        kept = find_kept(ir.load(path), make_half, captured, options.precision, progress)
    progress("half precision")
    return model, halve(model, kept.names), kept
