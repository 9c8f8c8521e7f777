"""A diffusers `UNet2DModel` behind this project's calling convention."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn


class DoubleSinusoid(nn.Module):
    """diffusers' `Timesteps` in float64: c_noise = 1095.5 at sigma 80 costs float32 6e-5 rad in each angle.

    Attributes as there: `channels` wide, [cos, sin] if `flip`, frequencies 10000^(-i/(half - shift)), angles x `scale`.
    """

    def __init__(self, channels: int, flip: bool, shift: float, scale: float) -> None:
        super().__init__()
        self.channels, self.flip, self.shift, self.scale = channels, flip, shift, scale

    def forward(self, c_noise: Tensor) -> Tensor:
        """Embed noise levels (B,) as (B, channels)."""
        half = self.channels // 2
        exponents = torch.arange(half, dtype=torch.float64) / (half - self.shift)
        angles = self.scale * c_noise.to(torch.float64)[:, None] * torch.pow(1.0 / 10000.0, exponents)[None]
        parts = [torch.cos(angles), torch.sin(angles)] if self.flip else [torch.sin(angles), torch.cos(angles)]
        embedding = torch.cat(parts, dim=1)
        return nn.functional.pad(embedding, (0, self.channels % 2)) if self.channels % 2 else embedding


class DoubleFourier(nn.Module):
    """diffusers' `GaussianFourierProjection` in float64: [sin, cos] (or the reverse) of 2 pi ln(c_noise) w."""

    def __init__(self, weight: nn.Parameter, flip: bool, log: bool) -> None:
        super().__init__()
        self.weight, self.flip, self.log = weight, flip, log

    def forward(self, c_noise: Tensor) -> Tensor:
        """(B,) to (B, 2 len(w))."""
        level = c_noise.to(torch.float64)
        level = torch.log(level) if self.log else level
        angles = level[:, None] * (2.0 * math.pi * self.weight.to(torch.float64))[None]
        parts = [torch.cos(angles), torch.sin(angles)] if self.flip else [torch.sin(angles), torch.cos(angles)]
        return torch.cat(parts, dim=1)


def halvings(unet: nn.Module) -> int:
    """Return what height and width must be multiples of, by the number of blocks that halve them."""
    blocks: Any = unet.down_blocks
    return int(2 ** sum(getattr(block, "downsamplers", None) is not None for block in blocks))


class DiffusersUnet(nn.Module):
    """F(x, c_noise[, label]) computed by the library's own network.

    `multiple` is what height and width must be multiples of, by the number of blocks that halve them.
    """

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.multiple = halvings(unet)
        projection: Any = unet.time_proj
        if hasattr(projection, "weight"):
            unet.time_proj = DoubleFourier(projection.weight, projection.flip_sin_to_cos, projection.log)
        elif hasattr(projection, "flip_sin_to_cos"):
            unet.time_proj = DoubleSinusoid(
                projection.num_channels,
                projection.flip_sin_to_cos,
                projection.downscale_freq_shift,
                getattr(projection, "scale", 1),
            )
        self.unet = unet

    def forward(self, x: Tensor, c_noise: Tensor, label: Tensor | None = None) -> Tensor:
        """Run on x (N, C, H, W), c_noise (1,) float64, label (N,) int64 for class-conditional networks."""
        result: Tensor = self.unet(x, c_noise, class_labels=label, return_dict=False)[0]
        # With Fourier features the library divides the sample by the time, which is float64 here.
        return result.to(x.dtype)
