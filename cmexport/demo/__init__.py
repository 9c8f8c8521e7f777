"""The model that ships with the package: a small class-conditional consistency model trained on CIFAR-10.

Facts, quality and limits are in `MODEL_CARD.md` beside this file.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from cmexport.errors import CheckpointError

DEMO_SHA256 = "a84a6d650a8e458e916b30d29fbd27b406228249af207a9dc12577c7641688c2"
"""Of the demo checkpoint, by which it is known wherever it lies."""


def demo_checkpoint() -> Path:
    """Where the demo checkpoint lies: half precision, OpenAI's key names, 16 MB.

    The path is real because pip unpacks wheels; running from inside a zip archive is not supported (torch could not
    map the file either).

    Raises:
        CheckpointError: the installation is damaged.
    """
    path = Path(str(files(__name__).joinpath("cm_cifar10.pt")))
    if not path.is_file():
        raise CheckpointError(f"{path}: the demo checkpoint is missing from this installation; reinstall cmexport")
    return path
