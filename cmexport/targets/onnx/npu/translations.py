"""Operators as Qualcomm's compiler takes them, where the standard spelling falls off the NPU."""

from __future__ import annotations

from typing import Any

from onnxscript import opset20 as op

from cmexport.onnxfile import translations as standard
from cmexport.onnxfile.translations import Translations, aten


def _group_norm(
    input: Any,
    num_groups: int,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Any:
    """The affine as Mul and Add: HTP's BatchNormalization takes no scales computed at run time, as labels give."""
    del cudnn_enabled
    result = standard.group_norm(input, num_groups, None, None, eps)
    rows: Any = op.Constant(value_ints=[1, -1, *(1 for _ in input.shape[2:])])
    if weight is not None:
        result = op.Mul(result, op.Reshape(weight, rows))
    return result if bias is None else op.Add(result, op.Reshape(bias, rows))


def npu_translations() -> Translations:
    """Translations of the operators for NPUs to plain ONNX."""
    return {**standard.standard_translations(), aten.group_norm.default: _group_norm}
