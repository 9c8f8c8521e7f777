"""Targets by name."""

from __future__ import annotations

from cmexport.errors import UsageError
from cmexport.targets.base import Target
from cmexport.targets.coreai.target import CoreAiTarget
from cmexport.targets.coreml.target import CoreMlTarget
from cmexport.targets.onnx.target import OnnxTarget
from cmexport.targets.tensorrt.target import TensorRtTarget

TARGETS: dict[str, Target] = {
    "onnx": OnnxTarget(),
    "coreml": CoreMlTarget(),
    "coreai": CoreAiTarget(),
    "tensorrt": TensorRtTarget(),
}


def target_named(name: str) -> Target:
    """The target called `name`.

    Raises:
        UsageError: no such target.
    """
    if name not in TARGETS:
        raise UsageError(f"unknown target '{name}'; known: {', '.join(TARGETS)}")
    return TARGETS[name]
