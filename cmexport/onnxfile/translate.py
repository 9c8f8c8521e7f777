"""From a captured graph to an ONNX model in memory: translation, shape arithmetic, shared constants."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import onnx_ir as ir
import onnx_ir.passes.common as common_passes
import onnxscript.optimizer
import torch
from onnxscript import rewriter
from onnxscript.rewriter.rules.common._basic_rules import ReshapeReshape, TransposeTranspose

from cmexport.errors import BackendError, first_line
from cmexport.graph.capture import CapturedGraph
from cmexport.onnxfile.plain import is_plain, translate_plain
from cmexport.onnxfile.sharing import share_matrices
from cmexport.onnxfile.translations import Translations


def translate(captured: CapturedGraph, translations: Translations, opset: int, *, tidy: bool = False) -> ir.Model:
    """Translate the graph to a float32 ONNX model with shapes on its values and all constants as initializers.

    Args:
        captured: after the rewrites.
        translations: how ATen operators are spelled where the exporter's own way won't do; empty for none of it.
        opset: of the default domain.
        tidy: use the exporter's whole optimizer instead of the few passes that matter here.

    Raises:
        BackendError: an operator has no ONNX form.
    """
    model = _export(captured, translations, opset, tidy=tidy)
    if not tidy:
        _fold_shapes(model)
    common_passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common_passes.DeduplicateInitializersPass()(model)
    if captured.signature.later_noise is not None:
        share_matrices(model)
    return model


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


def _export(captured: CapturedGraph, translations: Translations, opset: int, *, tidy: bool) -> ir.Model:
    try:
        with _quiet():
            if not tidy and is_plain(captured.program, translations):
                return translate_plain(captured.program, translations, opset)
            program = torch.onnx.export(
                captured.program,
                (),
                kwargs=captured.examples(),
                opset_version=opset,
                dynamo=True,
                verbose=False,
                optimize=tidy,
                custom_translation_table=dict(translations),
            )
    except torch.onnx.errors.OnnxExporterError as error:
        reason = first_line(error.__cause__ or error)
        raise BackendError(f"ONNX: this network can't be translated at opset {opset}: {reason}") from error
    assert program is not None
    model: ir.Model = program.model
    return model


def _fold_shapes(model: ir.Model) -> None:
    """Do what matters of the exporter's optimizer: shapes, pairs that undo each other, leftovers.

    The whole optimizer tries 200,000 rule matches on ImageNet-64's graph, 6 of the 9 seconds that translating takes.
    """
    common_passes.InlinePass()(model)
    # Folding a large constant stops where it has two readers: K steps transpose each linear weight once a step, and the
    # demo's two steps kept 11 of these. Made one first, they fold.
    common_passes.CommonSubexpressionEliminationPass()(model)
    onnxscript.optimizer.fold_constants(model, onnx_shape_inference=True)
    # Rules of our own: one remembers the last graph it saw, and the package's would keep ImageNet-64's 0.6 GB alive.
    rules = [kind.rule() for kind in (ReshapeReshape, TransposeTranspose)]  # type: ignore[no-untyped-call]
    rewriter.RewritePass(rules)(model)
    _drop_idle_reshapes(model)
    common_passes.IdentityEliminationPass()(model)
    common_passes.RemoveUnusedNodesPass()(model)
    common_passes.CommonSubexpressionEliminationPass()(model)


def _drop_idle_reshapes(model: ir.Model) -> None:
    """Two reshapes that became one may end where they began: normalization with one channel in a group."""
    for node in model.graph:
        (result,) = node.outputs if node.op_type == "Reshape" else (None,)
        source = node.inputs[0] if result is not None else None
        if result is None or source is None or result.is_graph_output():
            continue
        if source.shape is not None and source.shape.is_static() and source.shape == result.shape:
            result.replace_all_uses_with(source)
            model.graph.remove(node, safe=True)
