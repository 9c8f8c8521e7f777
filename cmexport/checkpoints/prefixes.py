"""What wrappers leave in weight names (`_orig_mod.` of torch.compile), and the counters that they put beside them."""

from __future__ import annotations

from torch import Tensor

# Wrappers that put their name anywhere into a weight's name: torch.compile, FSDP, activation checkpointing, Fabric.
_WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"})
# Bookkeeping of averages. Old releases of ema_pytorch keep `initted` and `step` as one-dimensional tensors of one.
_COUNTERS = frozenset(
    {"initted", "step", "steps", "global_step", "n_averaged", "num_updates", "num_batches_tracked", "decay", "counter"}
)


def without_wrappers(name: str) -> str:
    """Return a weight's name without the parts that wrappers put into it."""
    if not any(wrapper in name for wrapper in _WRAPPERS):
        return name
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def is_counter(name: str, tensor: Tensor) -> bool:
    """Whether an entry is a wrapper's bookkeeping and no weight: 0-dimensional, or a counter's name and one element."""
    return tensor.dim() == 0 or (tensor.numel() == 1 and name.rpartition(".")[2] in _COUNTERS)
