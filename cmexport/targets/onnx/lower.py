"""Lower a captured graph to one ONNX file."""

from __future__ import annotations

from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cmexport.graph.capture import CapturedGraph
from cmexport.graph.rewriting import apply_rewrites
from cmexport.onnxfile.half import to_half
from cmexport.onnxfile.saving import save
from cmexport.onnxfile.translate import translate
from cmexport.onnxfile.translations import standard_translations
from cmexport.targets.base import LoweredModel, LoweringOptions, Progress
from cmexport.targets.onnx.contrib import contrib_translations
from cmexport.targets.onnx.forms import forms_for
from cmexport.targets.onnx.providers import OPSET, profile_for


def lower(
    captured: CapturedGraph, options: LoweringOptions, folder: Path, progress: Progress, name: str = "model"
) -> LoweredModel:
    """Write `<name>.onnx` (and `<name>.onnx.data` beyond 2 GB) into `folder`.

    The execution provider's own rewrites are applied first, unless the caller has applied them with the others.

    Raises:
        UsageError: unknown execution provider or rewrite.
        BackendError: an operator has no ONNX form, or the written file is not valid ONNX.
        OSError: the file can't be written.
    """
    profile = profile_for(options.ep)
    done = {report.name for report in captured.rewrites}
    shaped = apply_rewrites(captured, [f for f in forms_for(profile, options.rewrites) if f.name not in done], progress)
    progress("translate to ONNX")
    plain = options.rewrites == "none"
    translations = {} if plain else contrib_translations() if profile.contrib_ops else standard_translations()
    model = translate(shaped, translations, OPSET, tidy=plain)
    plan: dict[str, Any] = {"default": "float32"}
    if options.precision == "fp16":
        progress("half precision")
        report = to_half(model)
        plan = {"default": "float16", "kept_float32": report.float_nodes, **asdict(report)}
        del plan["float_nodes"]
    progress("write")
    return LoweredModel(
        files=save(model, captured, folder / f"{name}.onnx"),
        precision_plan=plan,
        session=profile.session(options.ep),
        tools={name: version(name) for name in ("torch", "onnx", "onnxscript", "onnx-ir", "onnxruntime")},
        rewrites=shaped.rewrites[len(captured.rewrites) :],
    )
