"""Which layers compute in 8 bits: a readable file, keyed by module path, that every target spells in its own way."""

from __future__ import annotations

import difflib
import json
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cmexport.errors import CheckpointError, first_line
from cmexport.files import require_file
from cmexport.quantize.codes import RoundingOptions
from cmexport.quantize.layers import Layer

INT8, FLOAT = "int8", "float"
PRECISIONS = (INT8, FLOAT)
VERSION = 1

IN_8_BITS = frozenset({"spatial", "linear", "attention"})
"""Roles that the default plan rounds. 1x1 skip convolutions carry the residual stream past everything: rounding them
costs 2.5 dB and saves 0.4 MB; the convolutions that read and write the picture cost 1.5 dB and save nothing."""


@dataclass(frozen=True)
class PrecisionPlan:
    """Precision by layer key, and how the layers in 8 bits are rounded.

    Attributes:
        layers: "int8" or "float" by key; a layer that is not named takes its role's default.
        rounding: steps and codes.
        bias_correction: shift biases so that mean outputs stay what they were.
        notes: a remark per key, written as a comment.
        checkpoint: SHA-256 of the checkpoint it was scored on; empty where that is not known. It fits others too.
    """

    layers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    rounding: RoundingOptions = field(default_factory=RoundingOptions)
    bias_correction: bool = True
    notes: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    checkpoint: str = ""

    def precision_of(self, layer: Layer) -> str:
        """What the plan says, or its role's default."""
        return self.layers.get(layer.key, INT8 if layer.role in IN_8_BITS else FLOAT)


def check_keys(plan: PrecisionPlan, layers: Sequence[Layer], source: str = "--plan") -> None:
    """Refuse a plan that names layers the model does not have.

    Raises:
        CheckpointError: naming the nearest layer.
    """
    known = [layer.key for layer in layers]
    if unknown := [key for key in plan.layers if key not in known]:
        near = difflib.get_close_matches(unknown[0], known, 1)
        hint = (
            f"; did you mean {near[0]}?" if near else f"; it has {len(known)}, the first is {known[0]}" if known else ""
        )
        raise CheckpointError(f"{source}: this model has no layer {unknown[0]}{hint}")


def read_plan(path: Path) -> PrecisionPlan:
    """Read a plan file.

    Raises:
        CheckpointError: missing, not TOML, or not a plan.
    """
    require_file(path, "a plan")
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: can't read this plan: {getattr(error, 'strerror', None) or error}") from error
    except (ValueError, RecursionError) as error:
        # Besides its own error, tomllib lets through Python's for numbers of 4,300 digits and endless nesting.
        raise CheckpointError(f"{path}: not TOML: {first_line(error)}") from error
    return _checked(path, data)


def _checked(path: Path, data: dict[str, Any]) -> PrecisionPlan:
    allowed = {"version", "checkpoint", "rounding", "layers"}
    if unknown := sorted(set(data) - allowed):
        raise CheckpointError(
            f"{path}: unknown table or key {unknown[0]}; a plan has version, checkpoint, [rounding], [layers]"
        )
    version = data.get("version")
    if type(version) is not int or version != VERSION:
        raise CheckpointError(f"{path}: version must be {VERSION}, not {version!r:.40}")
    checkpoint = data.get("checkpoint", "")
    if not isinstance(checkpoint, str):
        raise CheckpointError(f"{path}: checkpoint is {checkpoint!r:.40}; expected a SHA-256 in quotes")
    layers, rounding = data.get("layers", {}), data.get("rounding", {})
    if not isinstance(layers, dict) or not isinstance(rounding, dict):
        raise CheckpointError(f"{path}: [layers] and [rounding] must be tables")
    for key, precision in layers.items():
        if precision not in PRECISIONS:
            raise CheckpointError(f"{path}: layers.{key} is {precision!r:.40}; known are {', '.join(PRECISIONS)}")
    fields = {"margin": float, "balance": float, "least_squares": bool, "bias_correction": bool}
    for key, value in rounding.items():
        if key not in fields:
            raise CheckpointError(f"{path}: rounding has no {key}; known are {', '.join(fields)}")
        if isinstance(value, bool) != (fields[key] is bool) or not isinstance(value, bool | int | float):
            raise CheckpointError(f"{path}: rounding.{key} is {value!r:.40}; expected a {fields[key].__name__}")
        # TOML's whole numbers have no end; floats do.
        if isinstance(value, int) and abs(value) > sys.float_info.max:
            raise CheckpointError(f"{path}: rounding.{key} is a number without measure")
    correction = bool(rounding.get("bias_correction", True))
    options = RoundingOptions(
        margin=float(rounding.get("margin", RoundingOptions.margin)),
        balance=float(rounding.get("balance", RoundingOptions.balance)),
        least_squares=bool(rounding.get("least_squares", RoundingOptions.least_squares)),
    )
    if not (1.0 <= options.margin <= 4.0 and 0.0 <= options.balance <= 1.0):
        raise CheckpointError(f"{path}: rounding.margin must be from 1 to 4, rounding.balance from 0 to 1")
    return PrecisionPlan(dict(layers), options, correction, checkpoint=checkpoint)


def plan_text(plan: PrecisionPlan, layers: Sequence[Layer], checkpoint: str = "") -> str:
    """The plan as TOML, every layer of the model spelled out, with the notes as comments.

    `checkpoint` is the SHA-256 of what it was scored on.
    """
    rounding = plan.rounding
    lines = [
        "# Which layers compute in 8 bits. Edit, then give it to an export: cmexport onnx CKPT --int8 --plan THIS",
        f"version = {VERSION}",
        *([f'checkpoint = "{checkpoint}"'] if checkpoint else []),
        "",
        "[rounding]",
        f"margin = {rounding.margin}",
        f"balance = {rounding.balance}",
        f"least_squares = {str(rounding.least_squares).lower()}",
        f"bias_correction = {str(plan.bias_correction).lower()}",
        "",
        "[layers]",
    ]
    for layer in layers:
        weights = f"{layer.role}, {layer.weight.numel():,} weights"
        note = "; ".join(part for part in (weights, plan.notes.get(layer.key, "")) if part)
        lines.append(f'{_quoted(layer.key)} = "{plan.precision_of(layer)}"  # {" ".join(note.split())}')
    return "\n".join(lines) + "\n"


def _quoted(key: str) -> str:
    """A TOML basic string: JSON's, but that DEL must be escaped and surrogate pairs must not be."""
    return json.dumps(key, ensure_ascii=False).replace("\x7f", "\\u007f")
