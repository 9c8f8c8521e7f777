"""What the tests of every target measure with."""

from support.centred import codes, graph, noise
from support.measuring import _one_thread, psnr, toy

__all__ = ["_one_thread", "codes", "graph", "noise", "psnr", "toy"]
