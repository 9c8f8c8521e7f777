"""What the tests of every target measure with."""

from support.measuring import _one_thread, psnr, toy

__all__ = ["_one_thread", "psnr", "toy"]
