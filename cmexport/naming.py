"""What checkpoints and runs are called: file names without the suffixes that checkpoints have, and no more cut off.

`Path.stem` cuts at the last dot, whatever stands behind it: the folders `cm-v1.0` and `cm-v1.5` would both be `cm-v1`,
and `ema_0.9999` would be `ema_0`.
"""

from __future__ import annotations

import os
from pathlib import Path

CHECKPOINT_SUFFIXES = (
    *(".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".pkl", ".pickle", ".onnx", ".npz", ".pyt", ".torch", ".weights"),
    ".tar",
)
"""Suffixes that tell a format; `.tar` stands behind one of the others (`model.pth.tar`) or alone."""

_HUB_PREFIX = "models--"


def run_of_steps(steps: int) -> str:
    """Name a run of an artefact that holds one task in several numbers of steps: `1-step`, `4-steps`."""
    return f"{steps}-step" if steps == 1 else f"{steps}-steps"


def checkpoint_stem(name: str) -> str:
    """Return a file's name without its format: `ema_0.9999_500.pt` is `ema_0.9999_500`, `cm.pth.tar` is `cm`."""
    for known in (".tar", CHECKPOINT_SUFFIXES):
        stem, dot, _ = name.rpartition(".")
        if dot and stem.strip(".") and name.lower().endswith(known):
            name = stem
    return name


def shown_name(path: Path) -> str:
    """Name a checkpoint by its file or folder; a folder in the hub's cache by its model, not the revision's hash."""
    # Of "." and ".." the folder's own name; links are kept, their names are the user's.
    whole = Path(os.path.abspath(path))  # noqa: PTH100
    if whole.parent.name == "snapshots" and (cached := whole.parent.parent.name).startswith(_HUB_PREFIX):
        return cached.rpartition("--")[2]
    return whole.name or "model"


def model_name(checkpoint: Path | str) -> str:
    """Return the name that artefacts of a checkpoint get.

    A folder keeps its whole name, a file loses its format, and a hub id (`owner/name`) its owner. `nets.py:build` is
    `nets`; any other function is named, since a module may build several networks: `nets.py:large` is `nets-large`.
    """
    module, colon, function = str(checkpoint).rpartition(":")
    if colon and module.endswith(".py") and function.isidentifier():
        name = shown_name(Path(module)).removesuffix(".py")
        return name if function == "build" else f"{name}-{function}"
    path = Path(checkpoint)
    return shown_name(path) if path.is_dir() else checkpoint_stem(shown_name(path))
