"""Lower a captured graph to one ONNX file."""

from __future__ import annotations

from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx_ir as ir

from cmexport.graph.capture import AMPLIFYING, CapturedGraph
from cmexport.graph.looping import CapturedLoop
from cmexport.graph.ranges import overflowing
from cmexport.graph.rewrites.fit_half import leaves_large
from cmexport.graph.rewriting import apply_rewrites
from cmexport.model import LARGE_MODEL
from cmexport.onnxfile.half import to_half
from cmexport.onnxfile.saving import save
from cmexport.onnxfile.stored_weights import BLOCK, forget_shapes, store_weights
from cmexport.onnxfile.translate import translate
from cmexport.onnxfile.translations import Translations, standard_translations
from cmexport.quantize.careful import round_carefully
from cmexport.quantize.precision_plan import PrecisionPlan
from cmexport.signature import Signature
from cmexport.targets.base import LoweredModel, TellStep
from cmexport.targets.onnx.budget import within_db, within_latency
from cmexport.targets.onnx.buffers import limit_buffers
from cmexport.targets.onnx.contrib import contrib_translations
from cmexport.targets.onnx.info import OnnxOptions
from cmexport.targets.onnx.int8 import PACKED, Int8Graph, prepare_int8, to_int8
from cmexport.targets.onnx.judging import PICTURES, PICTURES_OF_LARGE_MODELS, Judge
from cmexport.targets.onnx.loop import wrap_loop
from cmexport.targets.onnx.narrow import narrow_translations
from cmexport.targets.onnx.npu.lowering import is_for_npu, lower_for_npu
from cmexport.targets.onnx.providers import OPSET, ProviderProfile, profile_for
from cmexport.targets.onnx.rewrites import chosen_rewrites

STORED_BITS = {"w8": 8, "w4": 4}
"""Precisions of weights alone."""
_NARROWED = ("fp32", "int8")
"""Precisions whose convolutions to few channels become products: Col2Im takes float32, and no stored codes."""
_SPARED = {8: 0.03, 4: 0.01}
"""Of the weights, in half precision, by the bits of the others: what is left of 27 and 15 % of the float32 file. One
step of lcm-emoji in w8 has 45.6 dB with 3 % and 44.3 with 1 %."""

_CAREFUL_BLOCK = 64
"""Weights that share a scale in 4 bits where they are rounded by least squares."""


def lower(
    captured: CapturedGraph, options: OnnxOptions, folder: Path, progress: TellStep, name: str = "model"
) -> LoweredModel:
    """Write `<name>.onnx` (and `<name>.onnx.data` beyond 1 GB) into `folder`.

    The execution provider's own rewrites are applied first, unless the caller has applied them with the others.

    Raises:
        UsageError: unknown execution provider or rewrite.
        BackendError: an operator has no ONNX form, or the written file is not valid ONNX.
        OSError: the file can't be written.
    """
    profile = profile_for(options.ep)
    done = {report.name for report in captured.rewrites}
    chosen = chosen_rewrites(profile, options.rewrites, options.precision)
    wanted = [r for r in chosen if r.name not in done]
    shaped = apply_rewrites(captured, wanted, progress)
    if is_for_npu(options.precision, profile):
        return lower_for_npu(shaped, options, profile, folder, progress, name)
    progress("translate to ONNX")
    plain = options.rewrites == "none"
    translations = {} if plain else contrib_translations() if profile.contrib_ops else standard_translations()
    if profile.contrib_ops and profile.own_kernels and options.precision in _NARROWED and not plain:
        translations = {**translations, **narrow_translations()}
    plan: dict[str, Any] = {"default": "float32"}
    if options.precision == "int8":
        rounded, facts = _in_8_bits(shaped, translations, options, profile, progress)
        shaped = replace(rounded.captured, rewrites=shaped.rewrites)
        translations = {**translations, **rounded.translations}
        plan |= facts
        progress("translate to ONNX")
    careful = options.precision in STORED_BITS and captured.amplification > AMPLIFYING
    if careful:
        bits = STORED_BITS[options.precision]
        block = _CAREFUL_BLOCK if bits == 4 else None
        rounded_weights = round_carefully(shaped, bits, block, progress, PACKED, _SPARED[bits])
        shaped = replace(rounded_weights, rewrites=shaped.rewrites)
        progress("translate to ONNX")
    model = translate(shaped, translations, OPSET, tidy=plain)
    if options.precision == "fp16":
        progress("half precision")
        kept = overflowing(shaped) if leaves_large(shaped.rewrites) else ()
        plan = _halved(model, captured.signature, kept, wide_answers=captured.amplification > AMPLIFYING)
    if options.precision in STORED_BITS:
        progress("weights")
        size = _CAREFUL_BLOCK if careful else BLOCK
        stored = store_weights(model, STORED_BITS[options.precision], block=size, chosen=careful)
        plan |= {"weights_only": asdict(stored)}
    progress("write")
    if profile.buffers is not None:
        limit_buffers(model, profile.buffers)
    if careful:
        forget_shapes(model)
    return LoweredModel(
        files=save(model, captured.signature, folder / f"{name}.onnx"),
        precision_plan=plan,
        session=profile.session(options.ep),
        tools=_tools(),
        signature=captured.signature,
        rewrites=shaped.rewrites[len(captured.rewrites) :],
    )


def lower_loop(
    loop: CapturedLoop, options: OnnxOptions, folder: Path, progress: TellStep, name: str = "model"
) -> LoweredModel:
    """Write a looped sampler, whose body has been rewritten, as `<name>.onnx`.

    Raises:
        UsageError: unknown execution provider.
        BackendError: an operator has no ONNX form, or the written file is not valid ONNX.
        OSError: the file can't be written.
    """
    profile = profile_for(options.ep)
    progress("translate to ONNX")
    plain = options.rewrites == "none"
    translations = {} if plain else contrib_translations() if profile.contrib_ops else standard_translations()
    network = translate(loop.body, translations, OPSET, tidy=plain)
    plan: dict[str, Any] = {"default": "float32"}
    if options.precision == "fp16":
        progress("half precision")
        plan = _halved(network, loop.signature)
    progress("write")
    model = wrap_loop(network, loop)
    if profile.buffers is not None:
        limit_buffers(model, profile.buffers)
    return LoweredModel(
        files=save(model, loop.signature, folder / f"{name}.onnx"),
        precision_plan=plan,
        session=profile.session(options.ep),
        tools=_tools(),
        signature=loop.signature,
    )


def _halved(
    model: ir.Model, signature: Signature, kept: tuple[str, ...] = (), *, wide_answers: bool = False
) -> dict[str, Any]:
    """To half precision in place; what the manifest says of it."""
    report = to_half(model, signature.sample.shape, kept=kept, wide_answers=wide_answers)
    plan = {"default": "float16", "kept_float32": report.float_nodes, **asdict(report)}
    del plan["float_nodes"]
    return plan


def _tools() -> dict[str, str]:
    return {name: version(name) for name in ("torch", "onnx", "onnxscript", "onnx-ir", "onnxruntime")}


def _in_8_bits(
    shaped: CapturedGraph,
    translations: Translations,
    options: OnnxOptions,
    profile: ProviderProfile,
    progress: TellStep,
) -> tuple[Int8Graph, dict[str, Any]]:
    """By the plan, or by the budget that was asked for."""
    prepared = prepare_int8(shaped, options.plan or PrecisionPlan(), profile, progress)
    if options.budget_db is None and options.budget_latency is None:
        graph = to_int8(prepared, profile, progress)
        return graph, dict(graph.facts)
    with TemporaryDirectory(prefix="cmexport-") as folder:
        plain = Path(folder) / "plain.onnx"
        save(translate(shaped, translations, OPSET), shaped.signature, plain)

        def write(graph: Int8Graph, name: str) -> Path:
            path = Path(folder) / f"{name}.onnx"
            save(translate(graph.captured, {**translations, **graph.translations}, OPSET), shaped.signature, path)
            return path

        large = sum(layer.weight.numel() for layer in prepared.layers) > LARGE_MODEL
        judge = Judge(shaped, PICTURES_OF_LARGE_MODELS if large else PICTURES, progress)
        if options.budget_db is not None:
            choice = within_db(prepared, profile, options.budget_db, plain, write, judge.scores, progress)
            return choice.graph, choice.facts({"budget_db": options.budget_db})
        assert options.budget_latency is not None
        choice = within_latency(prepared, profile, options.budget_latency, plain, write, judge.scores, progress)
        return choice.graph, choice.facts({"budget_latency": options.budget_latency})
