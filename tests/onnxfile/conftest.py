"""Tiny random networks, lowered once per request and run in ONNX Runtime."""

from support.measuring import _one_thread, psnr, toy
from support.onnx_files import demo, export

__all__ = ["_one_thread", "demo", "export", "psnr", "toy"]
