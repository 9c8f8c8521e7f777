"""Pictures and masks to edit where nobody gave any: one law for calibration, scoring, verification and previews.

An app feeds soft pictures and masks with a hole. White noise and salt and pepper, of the same range, drive a network's
activations elsewhere: 8-bit steps that were measured on them fit nothing that is ever fed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

_WAVES = 4


def made_up_picture(shape: Sequence[int], generator: torch.Generator, noise: float = 0.0) -> npt.NDArray[np.float64]:
    """Soft coloured shapes: 4 x 4 cosines a channel, weaker the finer, as in photographs; (C, H, W) in [-1, 1].

    Args:
        shape: (C, H, W).
        generator: draws the strengths, then the noise.
        noise: standard deviation of what is added, for graphs whose `image` is noisy; the range is then wider.
    """
    channels, height, width = shape
    strength = torch.randn((channels, _WAVES, _WAVES), generator=generator).double().numpy()
    order = np.arange(_WAVES)
    strength /= 1.0 + order[:, None] + order[None, :]
    down, across = (np.cos(np.pi * order[:, None] * (np.arange(n) + 0.5) / n) for n in (height, width))
    picture: npt.NDArray[np.float64] = np.einsum("cuv,uy,vx->cyx", strength, down, across)
    picture = np.clip(0.5 * picture, -1.0, 1.0)
    if noise:
        picture += noise * torch.randn(picture.shape, generator=generator).numpy()
    return picture


def hole(shape: Sequence[int], generator: torch.Generator) -> npt.NDArray[np.float64]:
    """Make a mask (1, H, W) of ones with a hole of half the height and width somewhere."""
    _, height, width = shape
    mask = np.ones(shape)
    top = int(torch.randint(height - height // 2 + 1, (1,), generator=generator))
    left = int(torch.randint(width - width // 2 + 1, (1,), generator=generator))
    mask[:, top : top + height // 2, left : left + width // 2] = 0.0
    return mask
