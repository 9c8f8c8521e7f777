"""Give memory back to the system between the stages of an export.

Exporting ImageNet-64's network (1.2 GB of weights) holds the checkpoint, folded weights, half-precision weights and a
runtime's copies at different times. Python does not return freed memory by itself, and not all of it is free: the
checkpoint's own weights are needed only until the reference pictures are drawn.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterable

import torch
from torch import Tensor


def return_free_memory() -> None:
    """Collect cycles (graphs are full of them) and hand free heap pages back; only glibc needs the second half."""
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def drop_weights(tensors: Iterable[Tensor]) -> None:
    """Free the numbers behind tensors for good; what is left has the same shape and holds zeros."""
    for tensor in tensors:
        tensor.data = torch.zeros((), dtype=tensor.dtype).expand(tensor.shape)
    return_free_memory()
