"""InceptionV3's features as FID is defined on, from torchmetrics where it and its weights are at hand.

Nothing is downloaded: 92 MB from a stranger's release page are the user's decision.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cmexport.errors import BackendError, CheckpointError, first_line

NAME = "inception"
"""What `--features` calls it."""

WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"
"""File name under which torch-fidelity, and so torchmetrics, keeps the weights in torch's hub cache."""

_SOURCE = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{WEIGHTS}"
_FEATURES = "2048"


def inception_features() -> Callable[[Tensor], Tensor]:
    """Pictures (N, 3, H, W) float32 in [-1, 1] to features (N, 2048) float32; rounded to bytes first, as FID's are.

    Raises:
        BackendError: torchmetrics, torch-fidelity or the weights are missing, or they don't fit this torch.
        CheckpointError: the weights can't be used.
    """
    try:
        import_module("torch_fidelity")
        fid: Any = import_module("torchmetrics.image.fid")
    except ModuleNotFoundError as error:
        raise BackendError(f"--features {NAME}: {error.name} is missing: pip install 'torchmetrics[image]'") from error
    except Exception as error:  # torchvision of another torch raises RuntimeError while it is imported
        raise BackendError(f"--features {NAME}: torchmetrics can't be imported: {first_line(error)}") from error
    path = Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS
    if not path.is_file():
        raise BackendError(f"--features {NAME}: its weights are missing: put {_SOURCE} at {path}")
    try:
        network = fid.NoTrainInceptionV3("inception-v3-compat", [_FEATURES], str(path)).eval().requires_grad_(False)
    except Exception as error:  # anything a damaged file can raise, from pickle to shapes
        raise CheckpointError(f"{path}: not the weights of InceptionV3 ({first_line(error)})") from error

    def features(pictures: Tensor) -> Tensor:
        levels = ((pictures + 1.0) * 127.5).round().clamp(0.0, 255.0).to(torch.uint8)
        found: Tensor = network(levels)
        return found

    return features
