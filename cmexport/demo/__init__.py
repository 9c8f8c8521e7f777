"""The models that ship with the package: a class-conditional one trained on CIFAR-10, and one that paints emoji.

Facts, quality and limits are in `MODEL_CARD.md` beside this file and in `emoji/README.md`.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType

from cmexport.errors import CheckpointError, UsageError

DEMO_SHA256 = "a84a6d650a8e458e916b30d29fbd27b406228249af207a9dc12577c7641688c2"
"""Of the demo checkpoint, by which it is known wherever it lies."""


DEMOS: Mapping[str, str] = MappingProxyType({"cifar10": "cm_cifar10.pt", "emoji": "emoji"})
"""Where each lies beside this file: OpenAI's key names in half precision, 16 MB; a diffusers folder, 34 MB."""


def demo_checkpoint(name: str = "cifar10") -> Path:
    """Where a demo checkpoint lies.

    The path is real because pip unpacks wheels; running from inside a zip archive is not supported (torch could not
    map the file either).

    Raises:
        UsageError: there is none of that name.
        CheckpointError: the installation is damaged.
    """
    if name not in DEMOS:
        raise UsageError(f"--demo {name}: known are {', '.join(DEMOS)}")
    path = Path(str(files(__name__).joinpath(DEMOS[name])))
    if not path.exists():
        raise CheckpointError(f"{path}: the demo checkpoint is missing from this installation; reinstall cmexport")
    return path
