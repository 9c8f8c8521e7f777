"""What the UNets of NVlabs/edm and locuslab/ect are made of, written for export.

Same maths and same weight names as the blocks that Karras et al. 2022 (arXiv:2206.00364, appendix F.2) describe, with
these differences that no output sees: qkv rows lie in thirds (the files interleave q, k and v per channel; the loader
reorders them), attention is `scaled_dot_product_attention`, resampling with the filter [1, 1] is average pooling
or nearest-neighbour copying instead of a depthwise convolution, and the time embedding is computed in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BOX = (1.0, 1.0)


@dataclass(frozen=True)
class BlockStyle:
    """What all blocks of one network share.

    Attributes:
        embedding: width of the time and label embedding.
        adaptive_scale: the embedding scales and shifts the second norm instead of being added before it.
        skip_scale: factor after each residual sum.
        eps: of GroupNorm.
        head_width: channels per attention head; None is one head for all.
        resample_filter: one-dimensional filter, applied in both directions.
        always_project: resampled shortcuts have a 1x1 convolution even when the width stays.
    """

    embedding: int
    adaptive_scale: bool
    skip_scale: float
    eps: float
    head_width: int | None
    resample_filter: tuple[float, ...] = BOX
    always_project: bool = False


def group_norm(channels: int, eps: float) -> nn.GroupNorm:
    """GroupNorm with 32 groups, or fewer so that each has at least 4 channels."""
    return nn.GroupNorm(min(32, channels // 4), channels, eps=eps)


def positional_embedding(c_noise: Tensor, channels: int, *, endpoint: bool) -> Tensor:
    """(B,) to (B, channels): [cos, sin] of c_noise * 10000^(-i/(half - 1)) with `endpoint`, i/half without."""
    half = channels // 2
    exponents = torch.arange(half, dtype=c_noise.dtype) / (half - 1 if endpoint else half)
    angles = c_noise[:, None] * torch.pow(1.0 / 10000.0, exponents)[None]
    return torch.cat([torch.cos(angles), torch.sin(angles)], dim=1)


class ResampledConv(nn.Module):
    """Convolution with halving or doubling by a fixed filter before it (halving after it if `fused`).

    `kernel` 0 only resamples and has no weights.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        kernel: int,
        resample: str | None = None,
        resample_filter: tuple[float, ...] = BOX,
        fused: bool = False,
    ) -> None:
        super().__init__()
        self.kernel, self.resample, self.fused, self.channels = kernel, resample, fused, channels
        self.box = resample_filter == BOX
        self.filter_padding = (len(resample_filter) - 1) // 2
        if kernel:
            self.weight = nn.Parameter(torch.empty(out_channels, channels, kernel, kernel))
            self.bias = nn.Parameter(torch.zeros(out_channels))
            nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if resample and not self.box:
            taps = torch.tensor(resample_filter, dtype=torch.float32, device="cpu")
            taps = torch.outer(taps, taps) / taps.sum() ** 2
            self.register_buffer("taps", taps[None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) to (N, out_channels, H', W')."""
        if self.fused and self.resample == "down":
            x = F.conv2d(x, self.weight, self.bias, padding=self.kernel // 2 + self.filter_padding)
            return self._halve(x, padding=0)
        if self.resample == "down":
            x = self._halve(x, padding=self.filter_padding)
        elif self.resample == "up":
            x = self._double(x)
        return F.conv2d(x, self.weight, self.bias, padding=self.kernel // 2) if self.kernel else x

    def _halve(self, x: Tensor, padding: int) -> Tensor:
        if self.box:
            return F.avg_pool2d(x, kernel_size=2, stride=2)
        channels = x.shape[1]
        return F.conv2d(x, self._taps(channels), groups=channels, stride=2, padding=padding)

    def _double(self, x: Tensor) -> Tensor:
        if self.box:
            return F.interpolate(x, scale_factor=2.0, mode="nearest")
        taps = 4.0 * self._taps(self.channels)
        return F.conv_transpose2d(x, taps, groups=self.channels, stride=2, padding=self.filter_padding)

    def _taps(self, channels: int) -> Tensor:
        return self.get_buffer("taps").expand(channels, 1, -1, -1)


class Block(nn.Module):
    """norm, SiLU, (resampling) conv; embedding; norm, SiLU, conv; plus the shortcut; then attention if asked for."""

    def __init__(
        self,
        style: BlockStyle,
        channels: int,
        out_channels: int,
        *,
        resample: str | None = None,
        attention: bool = False,
    ) -> None:
        super().__init__()
        self.style = style
        self.heads = 0
        if attention:
            self.heads = 1 if style.head_width is None else out_channels // style.head_width
        taps = style.resample_filter
        self.norm0 = group_norm(channels, style.eps)
        self.conv0 = ResampledConv(channels, out_channels, 3, resample, taps)
        self.affine = nn.Linear(style.embedding, out_channels * (2 if style.adaptive_scale else 1))
        self.norm1 = group_norm(out_channels, style.eps)
        self.conv1 = ResampledConv(out_channels, out_channels, 3)
        self.skip: ResampledConv | None = None
        if channels != out_channels or resample:
            kernel = 1 if style.always_project or channels != out_channels else 0
            self.skip = ResampledConv(channels, out_channels, kernel, resample, taps)
        if self.heads:
            self.norm2 = group_norm(out_channels, style.eps)
            self.qkv = ResampledConv(out_channels, 3 * out_channels, 1)
            self.proj = ResampledConv(out_channels, out_channels, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Run on x (N, C, H, W), embedding (1 or N, width)."""
        h = self.conv0(F.silu(self.norm0(x)))
        change = self.affine(embedding)[:, :, None, None]
        if self.style.adaptive_scale:
            scale, shift = change.chunk(2, dim=1)
            h = self.norm1(h) * (1 + scale) + shift
        else:
            h = self.norm1(h + change)
        h = self.conv1(F.silu(h))
        h = (h + (x if self.skip is None else self.skip(x))) * self.style.skip_scale
        if self.heads:
            h = (self.proj(self._attend(self.qkv(self.norm2(h)))) + h) * self.style.skip_scale
        result: Tensor = h
        return result

    def _attend(self, qkv: Tensor) -> Tensor:
        n, rows, height, width = qkv.shape
        channels, positions = rows // 3, height * width
        parts = qkv.reshape(n, 3 * self.heads, channels // self.heads, positions)
        q, k, v = parts.chunk(3, dim=1)
        h = F.scaled_dot_product_attention(q.transpose(2, 3), k.transpose(2, 3), v.transpose(2, 3))
        return h.transpose(2, 3).reshape(n, channels, height, width)
