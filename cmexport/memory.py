"""Give memory back to the system between the stages of an export.

Exporting ImageNet-64's network (1.2 GB of weights) holds the checkpoint, folded weights, half-precision weights and a
runtime's copies at different times. Neither Python nor the C library returns freed memory by itself, and pages of the
mapped checkpoint stay resident after the last time they were needed.
"""

from __future__ import annotations

import ctypes
import gc
import mmap
import sys
from collections.abc import Iterable

from torch import Tensor

# Linux 5.4: reclaim these pages now. Unlike MADV_DONTNEED it never loses data: mapped files are read again on touch.
_MADV_PAGEOUT = 21


def return_free_memory() -> None:
    """Collect cycles (graphs are full of them) and hand free heap pages back; only glibc needs the second half."""
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def page_out(tensors: Iterable[Tensor]) -> None:
    """Advise the kernel that these tensors are not needed for a while; a hint, without effect where unknown."""
    if sys.platform != "linux":
        return
    advise = ctypes.CDLL(None, use_errno=True).madvise
    for tensor in tensors:
        storage = tensor.untyped_storage()
        first = -(-storage.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        last = (storage.data_ptr() + storage.nbytes()) // mmap.PAGESIZE * mmap.PAGESIZE
        if last > first:
            advise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), ctypes.c_int(_MADV_PAGEOUT))
