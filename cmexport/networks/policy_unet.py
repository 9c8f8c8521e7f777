"""The 1-D UNet of Consistency Policy (Prasad et al. 2024, arXiv:2405.07503): diffusion_policy's, with a second time.

Actions (N, 1, T, D), T points of time of D numbers, take the place of pictures. A convolution over time is one over
(1, T) with D channels, so that everything that knows convolutions of pictures knows these. Names as in
`consistency_policy/ctm_unet.py` of the authors but for `cond_encoder`, whose linear map is split: what it makes of the
two times is a constant of a sampler's graph, what it makes of an observation is not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_FINAL_GROUPS = 8
"""Of the last norm, whatever `groups` says: `final_conv` leaves it at `Conv1dBlock`'s default."""


@dataclass(frozen=True)
class PolicyUnetConfig:
    """What an authors' configuration and weights say of the network.

    Attributes:
        action_dim: D, numbers per action.
        down_dims: channels of each resolution in time.
        step_embed_dim: width of the embedding of one time; even, at least 4.
        kernel_size: of the convolutions, odd.
        groups: of GroupNorm.
        observed_dim: G, width of the observation's features.
        predict_scale: whether embeddings scale and shift, or only shift.
    """

    action_dim: int
    down_dims: tuple[int, ...]
    step_embed_dim: int
    kernel_size: int
    groups: int
    observed_dim: int
    predict_scale: bool


def _convolution(channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, out_channels, (1, kernel), (1, stride), (0, kernel // 2))


class _ConvBlock(nn.Module):
    """Convolution, GroupNorm, Mish."""

    def __init__(self, channels: int, out_channels: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            _convolution(channels, out_channels, kernel), nn.GroupNorm(groups, out_channels), nn.Mish()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, 1, T) to (N, C', 1, T)."""
        result: Tensor = self.block(x)
        return result


class _Embedding(nn.Module):
    """The linear map of times and observation, taken apart at its columns."""

    def __init__(self, times: int, observed: int, rows: int) -> None:
        super().__init__()
        self.times = nn.Linear(times, rows)
        self.observed = nn.Linear(observed, rows, bias=False)

    def forward(self, times: Tensor, observed: Tensor) -> Tensor:
        """Map (1, 2 E) and (N, G) to (N, rows)."""
        result: Tensor = self.times(times) + self.observed(observed)
        return result


class PolicyResBlock(nn.Module):
    """Two convolutions with scale and shift between, plus the skip."""

    def __init__(self, config: PolicyUnetConfig, channels: int, out_channels: int) -> None:
        super().__init__()
        kernel, groups = config.kernel_size, config.groups
        self.predict_scale = config.predict_scale
        self.blocks = nn.ModuleList(
            [
                _ConvBlock(channels, out_channels, kernel, groups),
                _ConvBlock(out_channels, out_channels, kernel, groups),
            ]
        )
        rows = 2 * out_channels if config.predict_scale else out_channels
        self.cond_encoder = _Embedding(2 * config.step_embed_dim, config.observed_dim, rows)
        same = channels == out_channels
        self.residual_conv = nn.Identity() if same else _convolution(channels, out_channels, 1)

    def forward(self, x: Tensor, times: Tensor, observed: Tensor) -> Tensor:
        """Run on x (N, C, 1, T) with activated embeddings (1, 2 E) and features (N, G)."""
        h = self.blocks[0](x)
        embedding = self.cond_encoder(times, observed)[:, :, None, None]
        if self.predict_scale:
            scale, shift = embedding.chunk(2, dim=1)
            h = scale * h + shift
        else:
            h = h + embedding
        result: Tensor = self.blocks[1](h) + self.residual_conv(x)
        return result


class _Resample(nn.Module):
    """Half as many points of time, or twice as many, by a convolution with a stride."""

    def __init__(self, channels: int, *, up: bool) -> None:
        super().__init__()
        self.conv = (
            nn.ConvTranspose2d(channels, channels, (1, 4), (1, 2), (0, 1))
            if up
            else _convolution(channels, channels, 3, stride=2)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, 1, T) to (N, C, 1, T/2) or (N, C, 1, 2 T)."""
        result: Tensor = self.conv(x)
        return result


class PolicyUnet(nn.Module):
    """F(x, c_noise, global_cond[, c_noise_target]); without a target it jumps to `c_noise_target`, set at load."""

    def __init__(self, config: PolicyUnetConfig) -> None:
        super().__init__()
        self.config = config
        embed, widths = config.step_embed_dim, (config.action_dim, *config.down_dims)
        pairs = list(pairwise(widths))
        self.diffusion_step_encoder = nn.Sequential(
            nn.Identity(), nn.Linear(embed, 4 * embed), nn.Mish(), nn.Linear(4 * embed, embed)
        )
        last = widths[-1]
        self.mid_modules = nn.ModuleList([PolicyResBlock(config, last, last) for _ in range(2)])
        self.down_modules = nn.ModuleList(
            nn.ModuleList(
                [
                    PolicyResBlock(config, before, after),
                    PolicyResBlock(config, after, after),
                    nn.Identity() if index == len(pairs) - 1 else _Resample(after, up=False),
                ]
            )
            for index, (before, after) in enumerate(pairs)
        )
        self.up_modules = nn.ModuleList(
            nn.ModuleList(
                [
                    PolicyResBlock(config, 2 * after, before),
                    PolicyResBlock(config, before, before),
                    _Resample(before, up=True),
                ]
            )
            for before, after in reversed(pairs[1:])
        )
        first = config.down_dims[0]
        self.final_conv = nn.Sequential(
            _ConvBlock(first, first, config.kernel_size, _FINAL_GROUPS), _convolution(first, config.action_dim, 1)
        )
        # 250 ln 0.02; the loader writes the model's own value.
        self.c_noise_target = -978.0057514

    def forward(self, x: Tensor, c_noise: Tensor, global_cond: Tensor, c_noise_target: Tensor | None = None) -> Tensor:
        """Run on x (N, 1, T, D); c_noise and c_noise_target (1,) float64; global_cond (N, G)."""
        if c_noise_target is None:
            c_noise_target = torch.full((1,), self.c_noise_target, dtype=torch.float64)
        embedded = [
            self.diffusion_step_encoder(step_embedding(time, self.config.step_embed_dim).to(x.dtype))
            for time in (c_noise, c_noise_target)
        ]
        times, observed = F.mish(torch.cat(embedded, dim=1)), F.mish(global_cond)
        h = x.permute(0, 3, 1, 2)
        kept: list[Tensor] = []
        for level in self.down_modules:
            first, second, down = _members(level)
            h = second(first(h, times, observed), times, observed)
            kept.append(h)
            h = down(h)
        for block in self.mid_modules:
            h = block(h, times, observed)
        for level in self.up_modules:
            first, second, up = _members(level)
            h = first(torch.cat([h, kept.pop()], dim=1), times, observed)
            h = up(second(h, times, observed))
        result: Tensor = self.final_conv(h)
        return result.permute(0, 2, 3, 1)


def _members(level: nn.Module) -> list[nn.Module]:
    """Return the two blocks and the resampling of a resolution."""
    return list(level.children())


def step_embedding(time: Tensor, width: int) -> Tensor:
    """Embed times, (B,) to (B, width): [sin, cos] of t 10000^(-i/(half-1)), i = 0 .. half-1 (`SinusoidalPosEmb`)."""
    half = width // 2
    exponents = torch.arange(half, dtype=time.dtype, device=time.device) * (-math.log(10000.0) / (half - 1))
    angles = time[:, None] * torch.exp(exponents)[None]
    return torch.cat([torch.sin(angles), torch.cos(angles)], dim=1)


_WHOLE, _TIMES, _OBSERVED = "cond_encoder.1.", "cond_encoder.times.", "cond_encoder.observed."


def authors_shapes(network: PolicyUnet) -> dict[str, torch.Size]:
    """Return the weights under the authors' names, with the shapes that these have there."""
    observed = network.config.observed_dim
    shapes: dict[str, torch.Size] = {}
    for name, tensor in network.state_dict().items():
        shape = tensor.shape
        if _OBSERVED in name:
            continue
        if name.endswith(f"{_TIMES}weight"):
            shape = torch.Size((shape[0], shape[1] + observed))
        if len(shape) == 4:
            shape = torch.Size((shape[0], shape[1], shape[3]))
        shapes[name.replace(_TIMES, _WHOLE)] = shape
    return shapes


def from_authors(network: PolicyUnet, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights by the authors' names as the network's own state dict."""
    times = 2 * network.config.step_embed_dim
    state: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith(f"{_WHOLE}weight"):
            state[name.replace(_WHOLE, _TIMES)] = tensor[:, :times].contiguous()
            state[name.replace(_WHOLE, _OBSERVED)] = tensor[:, times:].contiguous()
        else:
            state[name.replace(_WHOLE, _TIMES)] = tensor.unsqueeze(2) if tensor.dim() == 3 else tensor
    return state
