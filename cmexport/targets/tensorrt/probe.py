"""Opens both TensorRTs, for doctor."""

from __future__ import annotations

import ctypes.util
import importlib

from cmexport.targets.info import Finding


def tensorrt_rtx() -> Finding:
    """TensorRT for RTX: whether it builds engines, and can run them."""
    return _probe("tensorrt_rtx")


def tensorrt() -> Finding:
    """TensorRT proper, likewise."""
    return _probe("tensorrt")


def _probe(module: str) -> Finding:
    trt = importlib.import_module(module)
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    if builder is None:
        return Finding("broken", "the builder could not be created")
    if ctypes.util.find_library("cuda") is None:
        return Finding("limited", "builds engines; no NVIDIA driver here to run them")
    return Finding("works", "builds engines; NVIDIA driver present")
