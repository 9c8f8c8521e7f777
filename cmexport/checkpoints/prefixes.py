"""Prefixes that wrappers leave on weight names (`module.` of DataParallel), stripped only when really there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from cmexport.errors import CheckpointError

# Averaged weights first: where a file holds both, they make the better pictures.
KNOWN_PREFIXES = ("ema_model.", "net_ema.", "module.", "_orig_mod.", "model.", "net.", "unet.", "online_model.")


@dataclass(frozen=True)
class Stripped:
    """Weights without their prefix, and the prefix ("" if there was none)."""

    tensors: Mapping[str, Tensor]
    prefix: str


def find_prefix(tensors: Mapping[str, Tensor], anchor: str) -> str | None:
    """The prefix in front of `anchor`, made of known prefixes only; None if the anchor is not there."""
    found = [key[: -len(anchor)] for key in tensors if key == anchor or key.endswith("." + anchor)]
    usable = [prefix for prefix in found if _is_known(prefix)]
    return min(usable, key=_rank) if usable else None


def strip(path: Path, tensors: Mapping[str, Tensor], prefix: str) -> Stripped:
    """Take `prefix` off every name.

    Raises:
        CheckpointError: some names don't carry it, and no other known prefix explains them.
    """
    if not prefix:
        return Stripped(tensors, "")
    others = [key for key in tensors if not key.startswith(prefix) and not key.startswith(KNOWN_PREFIXES)]
    if others:
        raise CheckpointError(
            f"{path}: weights start with '{prefix}', but {len(others)} don't, e.g. {others[0]};\n"
            "save the weights of one network"
        )
    return Stripped({key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}, prefix)


def _is_known(prefix: str) -> bool:
    while prefix:
        head = next((known for known in KNOWN_PREFIXES if prefix.startswith(known)), None)
        if head is None:
            return False
        prefix = prefix[len(head) :]
    return True


def _rank(prefix: str) -> tuple[int, int]:
    averaged = any(part in prefix for part in ("ema_model.", "net_ema."))
    return (0 if averaged else 1, len(prefix))
