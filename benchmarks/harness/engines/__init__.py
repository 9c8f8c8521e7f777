"""The engines, one file per runtime. Each imports its runtime in `prepare`, so that a child only pays for its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from benchmarks.harness.engines.base import Engine
from benchmarks.harness.engines.diffusers_pipeline import DiffusersPipeline
from benchmarks.harness.engines.onnx_runtime import OnnxRuntime
from benchmarks.harness.engines.open_vino import OpenVino
from benchmarks.harness.engines.pytorch import PyTorch
from benchmarks.harness.specs import EngineSpec

KINDS: Mapping[str, Callable[[EngineSpec], Engine]] = MappingProxyType(
    {"onnxruntime": OnnxRuntime, "openvino": OpenVino, "pytorch": PyTorch, "diffusers": DiffusersPipeline}
)

__all__ = ["KINDS", "Engine"]
