"""Networks without memory: built on torch's meta device, to be filled with the tensors of a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

ModuleT = TypeVar("ModuleT", bound=nn.Module)

_RANDOM = frozenset({"normal_", "uniform_", "kaiming_uniform_", "kaiming_normal_", "xavier_uniform_", "trunc_normal_"})


class _NoRandomInit(TorchFunctionMode):
    """Skips random initialization: drawing on meta does nothing, but imports the whole compiler (1.5 s)."""

    def __torch_function__(
        self, func: Callable[..., Any], _: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "") in _RANDOM:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


def on_meta(build: Callable[[], ModuleT]) -> ModuleT:
    """Build a module whose parameters have shapes and no storage."""
    # Entered last, the mode sees each call first.
    with torch.device("meta"), _NoRandomInit():
        return build()
