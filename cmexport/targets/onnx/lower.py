"""Lower a captured graph to one ONNX file."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common_passes
import onnxscript.optimizer
import torch
from onnxscript import rewriter
from onnxscript.rewriter.rules.common import reshape_reshape_rule

from cmexport.errors import BackendError, first_line
from cmexport.graph.capture import CapturedGraph, example_tensors
from cmexport.graph.rewriting import apply_rewrites
from cmexport.model import TensorSpec
from cmexport.targets.base import LoweredModel, LoweringOptions, Progress
from cmexport.targets.onnx.forms import forms_for
from cmexport.targets.onnx.half import to_half
from cmexport.targets.onnx.providers import OPSET, profile_for
from cmexport.targets.onnx.sharing import share_matrices
from cmexport.targets.onnx.translations import contrib_translations, standard_translations
from cmexport.targets.onnx.writing import write_model

# Protobuf refuses messages of 2 GiB; weights beyond this go to a file beside the model.
EXTERNAL_DATA_BYTES = 1_900_000_000


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
    model = _translate(shaped, translations, tidy=plain)
    if not plain:
        _fold_shapes(model)
    common_passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common_passes.DeduplicateInitializersPass()(model)
    if any(spec.name == "renoise" for spec in captured.inputs):
        share_matrices(model)
    plan: dict[str, Any] = {"default": "float32"}
    if options.precision == "fp16":
        progress("half precision")
        report = to_half(model)
        plan = {"default": "float16", "kept_float32": report.float_nodes, **asdict(report)}
        del plan["float_nodes"]
    _name_border(model, captured.inputs, captured.outputs)
    common_passes.RemoveUnusedNodesPass()(model)
    common_passes.RemoveUnusedOpsetsPass()(model)
    common_passes.NameFixPass()(model)
    progress("write")
    files = _save(model, folder / f"{name}.onnx")
    _check(folder / files[0])
    return LoweredModel(
        files=files,
        precision_plan=plan,
        session=profile.session(options.ep),
        tools={name: version(name) for name in ("torch", "onnx", "onnxscript", "onnx-ir", "onnxruntime")},
        rewrites=shaped.rewrites[len(captured.rewrites) :],
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's chatter about operators of packages that are not installed."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _translate(captured: CapturedGraph, translations: dict[Any, Any], *, tidy: bool) -> ir.Model:
    inputs = example_tensors(captured.inputs, captured.classes)
    try:
        with _quiet():
            program = torch.onnx.export(
                captured.program,
                (),
                kwargs=inputs,
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
                optimize=tidy,
                custom_translation_table=translations,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        reason = first_line(error.__cause__ or error)
        raise BackendError(f"ONNX: this network can't be translated at opset {OPSET}: {reason}") from error
    assert program is not None
    model: ir.Model = program.model
    return model


def _fold_shapes(model: ir.Model) -> None:
    """What the exporter's optimizer would do that matters here: shape arithmetic, reshapes of reshapes, leftovers.

    The whole optimizer tries 200,000 rule matches on ImageNet-64's graph, 6 of the 9 seconds that translating takes.
    """
    common_passes.InlinePass()(model)
    onnxscript.optimizer.fold_constants(model, onnx_shape_inference=True)
    rewriter.RewritePass([reshape_reshape_rule])(model)
    common_passes.IdentityEliminationPass()(model)
    common_passes.RemoveUnusedNodesPass()(model)
    common_passes.CommonSubexpressionEliminationPass()(model)


def _name_border(model: ir.Model, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
    """Names are a contract; the exporter's metadata would put paths of this machine into the file."""
    for value, spec in zip((*model.graph.inputs, *model.graph.outputs), (*inputs, *outputs), strict=True):
        value.name = spec.name
    model.producer_name, model.producer_version = "cmexport", version("cmexport")
    model.graph.name = "consistency_sampler"
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.metadata_props.clear()


def _save(model: ir.Model, path: Path) -> tuple[str, ...]:
    weights = sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None)
    external = f"{path.name}.data" if weights > EXTERNAL_DATA_BYTES else None
    if external:
        ir.save(model, path, external_data=external)
        return (path.name, external)
    write_model(model, path)
    return (path.name,)


def _check(path: Path) -> None:
    """The ONNX checker on the written file, never on the object it was written from."""
    try:
        onnx.checker.check_model(str(path), full_check=False)
    except onnx.checker.ValidationError as error:
        raise BackendError(f"{path.name}: the ONNX checker refuses the written file: {error}") from error


def stamp(folder: Path, files: tuple[str, ...], facts: dict[str, str]) -> None:
    """Append facts to the model's `metadata_props`.

    Protobuf messages merge by concatenation, so this adds a few kilobytes instead of rewriting gigabytes.
    """
    proto = onnx.ModelProto()
    for key, value in facts.items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, value
    with (folder / files[0]).open("ab") as file:
        file.write(proto.SerializeToString())
    _check(folder / files[0])
