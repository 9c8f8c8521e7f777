"""The ADM UNet of openai/guided-diffusion and openai/consistency_models, written for export.

Same maths and same state-dict keys as `cm/unet.py` (Dhariwal & Nichol 2021, arXiv:2105.05233), with three differences
that no output sees: attention is `scaled_dot_product_attention` on tensors of rank 4 at most, nothing is changed in
place, and the sinusoidal time embedding is computed in float64 (c_noise = 1095.5 at sigma 80 costs float32 6e-5 rad).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

QKV_ORDERS = ("thirds", "head_major")


@dataclass(frozen=True)
class AdmUnetConfig:
    """Everything that fixes an ADM UNet's shapes and meaning.

    Attributes:
        image_size: side of the pictures, or height and width where they differ, pixels.
        in_channels, out_channels: picture channels in and out.
        model_channels: base width C; the time embedding has 4 C channels.
        channel_mult: width multiplier per resolution level, highest resolution first; a width is rounded down.
        num_res_blocks: residual blocks per level on the way down (one more on the way up).
        attention_downsampling: downsampling factors (1, 2, 4, ...) at which attention follows each block.
        num_classes: rows of the label embedding, None for an unconditional network.
        num_head_channels: width of one attention head; -1 uses num_heads.
        num_heads: heads per attention block when num_head_channels is -1.
        num_heads_upsample: the same on the way up; -1: num_heads.
        scalar_label: the label is a number from 0 to 1, embedded by an MLP of one hidden layer; without `num_classes`.
        qkv_order: "thirds" (all q, all k, all v rows) or "head_major" (q, k, v of each head together).
        use_scale_shift_norm: (1 + scale) * norm(h) + shift instead of h + embedding.
        resblock_updown: resampling inside residual blocks instead of plain (conv) layers.
        conv_resample: plain resampling with a learned convolution; only without resblock_updown.
        groups: GroupNorm groups.
    """

    image_size: int | tuple[int, int]
    model_channels: int
    channel_mult: tuple[int | float, ...]
    num_res_blocks: int
    attention_downsampling: tuple[int, ...]
    in_channels: int = 3
    out_channels: int = 3
    num_classes: int | None = None
    num_head_channels: int = 64
    num_heads: int = 4
    qkv_order: str = "thirds"
    use_scale_shift_norm: bool = True
    resblock_updown: bool = True
    conv_resample: bool = True
    groups: int = 32
    num_heads_upsample: int = -1
    scalar_label: bool = False

    def heads_for(self, channels: int, up: bool = False) -> int:
        """Attention heads of a block with `channels` channels, on the way down and in the middle, or up."""
        if self.num_head_channels != -1:
            return channels // self.num_head_channels
        return self.num_heads if not up or self.num_heads_upsample == -1 else self.num_heads_upsample


def timestep_embedding(c_noise: Tensor, channels: int) -> Tensor:
    """Sinusoidal embedding, (B,) to (B, channels): [cos, sin] of c_noise * 10000^(-i/half), i = 0 .. half-1."""
    half = channels // 2
    exponents = torch.arange(half, dtype=c_noise.dtype, device=c_noise.device) * (-math.log(10000.0) / half)
    angles = c_noise[:, None] * torch.exp(exponents)[None]
    embedding = torch.cat([torch.cos(angles), torch.sin(angles)], dim=1)
    return F.pad(embedding, (0, channels % 2)) if channels % 2 else embedding


def _downsample(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, kernel_size=2, stride=2)


def _upsample(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


class ResBlock(nn.Module):
    """norm, SiLU, (resample,) conv; add or scale-shift the embedding; norm, SiLU, conv; plus the (resampled) skip."""

    def __init__(self, config: AdmUnetConfig, channels: int, out_channels: int, resample: str | None = None) -> None:
        super().__init__()
        embed = 4 * config.model_channels
        self.scale_shift = config.use_scale_shift_norm
        self.resample = {None: None, "down": _downsample, "up": _upsample}[resample]
        self.in_layers = nn.Sequential(
            nn.GroupNorm(config.groups, channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(
            nn.SiLU(), nn.Linear(embed, 2 * out_channels if self.scale_shift else out_channels)
        )
        # Index 3 as in OpenAI's keys, where 2 is the dropout that inference does not have.
        self.out_layers = nn.Sequential(
            nn.GroupNorm(config.groups, out_channels),
            nn.SiLU(),
            nn.Identity(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
        )
        self.skip_connection: nn.Module = (
            nn.Identity() if channels == out_channels else nn.Conv2d(channels, out_channels, 1)
        )

    def project(self, embedding: Tensor) -> Tensor:
        """Apply the block's own linear map to the embedding: (1 or N, width or 2 width)."""
        result: Tensor = self.emb_layers(embedding)
        return result

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Run on x (N, C, H, W), embedding (1 or N, 4 model_channels)."""
        h = F.silu(self.in_layers[0](x))
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = self.in_layers[2](h)
        emb = self.project(embedding)[:, :, None, None]
        if self.scale_shift:
            scale, shift = emb.chunk(2, dim=1)
            h = self.out_layers[0](h) * (1 + scale) + shift
        else:
            h = self.out_layers[0](h + emb)
        h = self.out_layers[3](F.silu(h))
        skip: Tensor = self.skip_connection(x)
        result: Tensor = skip + h
        return result


class AttentionBlock(nn.Module):
    """norm, 1x1 qkv, softmax attention over all positions, 1x1 projection, residual."""

    def __init__(self, config: AdmUnetConfig, channels: int, up: bool = False) -> None:
        super().__init__()
        self.heads = config.heads_for(channels, up)
        self.head_major = config.qkv_order == "head_major"
        self.norm = nn.GroupNorm(config.groups, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Run on x (N, C, H, W)."""
        n, c, height, width = x.shape
        positions, width_per_head = height * width, c // self.heads
        qkv = self.qkv(self.norm(x))
        if self.head_major:
            q, k, v = qkv.reshape(n, self.heads, 3 * width_per_head, positions).chunk(3, dim=2)
        else:
            q, k, v = qkv.reshape(n, 3 * self.heads, width_per_head, positions).chunk(3, dim=1)
        h = F.scaled_dot_product_attention(q.transpose(2, 3), k.transpose(2, 3), v.transpose(2, 3))
        h = h.transpose(2, 3).reshape(n, c, height, width)
        projected: Tensor = self.proj_out(h)
        return x + projected


class Downsample(nn.Module):
    """Stride-2 convolution (`op`), or average pooling without weights."""

    def __init__(self, channels: int, conv: bool) -> None:
        super().__init__()
        self.op: nn.Module = nn.Conv2d(channels, channels, 3, stride=2, padding=1) if conv else nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H/2, W/2)."""
        result: Tensor = self.op(x)
        return result


class Upsample(nn.Module):
    """Nearest x2, then a convolution if learned."""

    def __init__(self, channels: int, conv: bool) -> None:
        super().__init__()
        self.conv: nn.Module | None = nn.Conv2d(channels, channels, 3, padding=1) if conv else None

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, 2H, 2W)."""
        x = _upsample(x)
        if self.conv is not None:
            x = self.conv(x)
        return x


class AdmUnet(nn.Module):
    """The whole network F(x, c_noise[, label]); see `AdmUnetConfig` for the variants."""

    block: type[ResBlock] = ResBlock

    def __init__(self, config: AdmUnetConfig) -> None:
        super().__init__()
        self.config = config
        base = config.model_channels
        embed = 4 * base
        self.time_embed = nn.Sequential(nn.Linear(base, embed), nn.SiLU(), nn.Linear(embed, embed))
        if config.num_classes is not None:
            self.label_emb: nn.Module = nn.Embedding(config.num_classes, embed)
        elif config.scalar_label:
            self.label_emb = nn.Sequential(nn.Linear(1, embed), nn.SiLU(), nn.Linear(embed, embed))

        width = int(config.channel_mult[0] * base)
        blocks: list[list[nn.Module]] = [[nn.Conv2d(config.in_channels, width, 3, padding=1)]]
        skips = [width]
        factor = 1
        for level, mult in enumerate(config.channel_mult):
            for _ in range(config.num_res_blocks):
                out = int(mult * base)
                layers: list[nn.Module] = [self.block(config, width, out)]
                width = out
                if factor in config.attention_downsampling:
                    layers.append(AttentionBlock(config, width))
                blocks.append(layers)
                skips.append(width)
            if level < len(config.channel_mult) - 1:
                down: nn.Module = (
                    self.block(config, width, width, "down")
                    if config.resblock_updown
                    else Downsample(width, config.conv_resample)
                )
                blocks.append([down])
                skips.append(width)
                factor *= 2
        self.input_blocks = nn.ModuleList(nn.ModuleList(layers) for layers in blocks)

        self.middle_block = nn.ModuleList(
            [self.block(config, width, width), AttentionBlock(config, width), self.block(config, width, width)]
        )

        blocks = []
        for level, mult in reversed(list(enumerate(config.channel_mult))):
            for index in range(config.num_res_blocks + 1):
                out = int(mult * base)
                layers = [self.block(config, width + skips.pop(), out)]
                width = out
                if factor in config.attention_downsampling:
                    layers.append(AttentionBlock(config, width, up=True))
                if level and index == config.num_res_blocks:
                    layers.append(
                        self.block(config, width, width, "up")
                        if config.resblock_updown
                        else Upsample(width, config.conv_resample)
                    )
                    factor //= 2
                blocks.append(layers)
        self.output_blocks = nn.ModuleList(nn.ModuleList(layers) for layers in blocks)

        self.out = nn.Sequential(
            nn.GroupNorm(config.groups, width), nn.SiLU(), nn.Conv2d(width, config.out_channels, 3, padding=1)
        )

    def embed(self, c_noise: Tensor, label: Tensor | None, dtype: torch.dtype) -> Tensor:
        """Time and label embedding, (1 or N, 4 model_channels)."""
        embedding: Tensor = self.time_embed(timestep_embedding(c_noise, self.config.model_channels).to(dtype))
        if label is None:
            return embedding
        embedded: Tensor = self.label_emb(label[:, None] if self.config.scalar_label else label)
        return embedding + embedded

    def forward(self, x: Tensor, c_noise: Tensor, label: Tensor | None = None) -> Tensor:
        """Run on x (N, C, H, W), c_noise (1,) or (N,), label (N,): int64 classes, or numbers from 0 to 1."""
        return self.decode(x, self.embed(c_noise, label, x.dtype))

    def decode(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Run the convolutional part on x (N, C, H, W) and what `embed` returned."""
        h = x
        skips: list[Tensor] = []
        for layers in self.input_blocks:
            h = _run(layers, h, embedding)
            skips.append(h)
        h = _run(self.middle_block, h, embedding)
        for layers in self.output_blocks:
            h = _run(layers, torch.cat([h, skips.pop()], dim=1), embedding)
        result: Tensor = self.out(h)
        return result


def _run(layers: nn.Module, h: Tensor, embedding: Tensor) -> Tensor:
    assert isinstance(layers, nn.ModuleList)
    for layer in layers:
        h = layer(h, embedding) if isinstance(layer, ResBlock) else layer(h)
    return h
