"""Tiny random networks, lowered once per request and run in ONNX Runtime."""

from support.onnx_files import demo, export

__all__ = ["demo", "export"]
