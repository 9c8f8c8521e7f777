"""What a recipe may name. The registries say the same (a test compares them), but importing them loads torch: 2.5 s."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, get_args

TargetName = Literal["onnx", "coreml", "coreai", "tensorrt"]
Precision = Literal["fp32", "fp16", "bf16", "int8", "a16w8", "fp8", "w8", "w6", "w4", "mixed"]
TaskName = Literal["generate", "inpaint", "colorize", "superres", "stroke", "denoise"]
Sampler = Literal["consistency", "heun"]

TARGETS: tuple[str, ...] = get_args(TargetName)

PRECISIONS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "onnx": ("fp32", "fp16", "int8", "a16w8", "w8", "w4"),
        "coreml": ("fp32", "fp16", "int8", "w8", "w6", "w4", "mixed"),
        "coreai": ("fp32", "fp16"),
        "tensorrt": ("fp32", "fp16", "bf16", "int8", "fp8"),
    }
)
"""Precisions by target."""

TARGET_OPTIONS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "onnx": ("ep", "plan", "budget_db", "budget_latency", "simplify"),
        "coreml": ("ios", "plan", "budget_db", "keep_fp32"),
        "coreai": (),
        "tensorrt": ("plan", "keep_fp32", "trt", "sm", "compat", "strip", "refit", "timing_cache"),
    }
)
"""Keys of a `[targets.NAME]` table that only some targets know, by target."""

OPTION_PRECISIONS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "plan": ("int8",),
        "budget_db": ("int8", "mixed"),
        "budget_latency": ("int8",),
        "keep_fp32": ("fp16", "bf16", "int8", "fp8", "w8", "w6", "w4", "mixed"),
    }
)
"""Options that go with some precisions only; a target's other precisions are exported without them."""


def takes(target: str, precision: str, option: str) -> bool:
    """Whether an option is passed on when a target is exported at a precision.

    A budget in dB chooses among layers in 8 bits for ONNX and among weight bits for Core ML, where it is the whole
    precision "mixed".
    """
    if option == "budget_db":
        return precision == ("int8" if target == "onnx" else "mixed")
    return precision in OPTION_PRECISIONS.get(option, PRECISIONS[target])
