"""The SongUNet of NVlabs/edm: DDPM++ (Ho et al. 2020 as in Song et al. 2021) and NCSN++ (arXiv:2011.13456).

Weight names are those of the published checkpoints without their `model.` prefix. Inputs for augmentation are left
out: inference feeds them zeros.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmexport.networks.edm_blocks import BOX, Block, BlockStyle, ResampledConv, group_norm, positional_embedding


@dataclass(frozen=True)
class SongUnetConfig:
    """Everything that fixes a SongUNet.

    Attributes:
        image_size: height and width of the pictures, pixels.
        in_channels, out_channels: picture channels in and out.
        stem_channels: width of the first convolution.
        widths: channels per resolution, highest first.
        num_blocks: residual blocks per resolution on the way down (one more on the way up).
        attention_resolutions: picture sizes at which attention sits, pixels.
        noise_channels: width of the raw time embedding.
        embedding_channels: width of the mapped embedding.
        num_classes: width of the one-hot label, None without labels.
        fourier: random Fourier features (weights of the file) instead of the fixed sinusoids.
        encoder: "standard", "skip" or "residual"; decoder: "standard" or "skip".
        resample_filter: [1, 1] for DDPM++, [1, 3, 3, 1] for NCSN++.
    """

    image_size: int
    stem_channels: int
    widths: tuple[int, ...]
    num_blocks: int
    attention_resolutions: tuple[int, ...]
    noise_channels: int
    embedding_channels: int
    in_channels: int = 3
    out_channels: int = 3
    num_classes: int | None = None
    fourier: bool = False
    encoder: str = "standard"
    decoder: str = "standard"
    resample_filter: tuple[float, ...] = BOX


class FourierFrequencies(nn.Module):
    """Holds the random frequencies of the file."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.register_buffer("freqs", torch.zeros(count))

    def forward(self, c_noise: Tensor) -> Tensor:
        """(B,) to (B, 2 count): [cos, sin] of 2 pi c_noise f."""
        angles = c_noise[:, None] * (2.0 * math.pi * self.get_buffer("freqs").to(c_noise.dtype))[None]
        return torch.cat([torch.cos(angles), torch.sin(angles)], dim=1)


class SongUnet(nn.Module):
    """F(x, c_noise[, label]); see `SongUnetConfig` for the variants."""

    def __init__(self, config: SongUnetConfig) -> None:
        super().__init__()
        self.config = config
        taps = config.resample_filter
        style = BlockStyle(
            embedding=config.embedding_channels,
            adaptive_scale=False,
            skip_scale=math.sqrt(0.5),
            eps=1e-6,
            head_width=None,
            resample_filter=taps,
            always_project=True,
        )
        self.map_noise = FourierFrequencies(config.noise_channels // 2) if config.fourier else None
        if config.num_classes is not None:
            self.map_label = nn.Linear(config.num_classes, config.noise_channels)
        self.map_layer0 = nn.Linear(config.noise_channels, config.embedding_channels)
        self.map_layer1 = nn.Linear(config.embedding_channels, config.embedding_channels)

        encoder: dict[str, nn.Module] = {}
        width, aux_width = config.stem_channels, config.in_channels
        skips = []
        for level, out in enumerate(config.widths):
            size = config.image_size >> level
            if level == 0:
                encoder[f"{size}x{size}_conv"] = ResampledConv(config.in_channels, width, 3)
            else:
                encoder[f"{size}x{size}_down"] = Block(style, width, width, resample="down")
            skips.append(width)
            if level and config.encoder == "skip":
                encoder[f"{size}x{size}_aux_down"] = ResampledConv(aux_width, aux_width, 0, "down", taps)
                encoder[f"{size}x{size}_aux_skip"] = ResampledConv(aux_width, width, 1)
            if level and config.encoder == "residual":
                encoder[f"{size}x{size}_aux_residual"] = ResampledConv(aux_width, width, 3, "down", taps, fused=True)
                aux_width = width
            for index in range(config.num_blocks):
                attention = size in config.attention_resolutions
                encoder[f"{size}x{size}_block{index}"] = Block(style, width, out, attention=attention)
                width = out
                skips.append(width)
        self.enc = nn.ModuleDict(encoder)

        decoder: dict[str, nn.Module] = {}
        last = len(config.widths) - 1
        for level, out in reversed(list(enumerate(config.widths))):
            size = config.image_size >> level
            if level == last:
                decoder[f"{size}x{size}_in0"] = Block(style, width, width, attention=True)
                decoder[f"{size}x{size}_in1"] = Block(style, width, width)
            else:
                decoder[f"{size}x{size}_up"] = Block(style, width, width, resample="up")
            for index in range(config.num_blocks + 1):
                attention = index == config.num_blocks and size in config.attention_resolutions
                decoder[f"{size}x{size}_block{index}"] = Block(style, width + skips.pop(), out, attention=attention)
                width = out
            if config.decoder == "skip" or level == 0:
                if config.decoder == "skip" and level < last:
                    channels = config.out_channels
                    decoder[f"{size}x{size}_aux_up"] = ResampledConv(channels, channels, 0, "up", taps)
                decoder[f"{size}x{size}_aux_norm"] = group_norm(width, 1e-6)
                decoder[f"{size}x{size}_aux_conv"] = ResampledConv(width, config.out_channels, 3)
        self.dec = nn.ModuleDict(decoder)

    def _embedding(self, c_noise: Tensor, label: Tensor | None, dtype: torch.dtype) -> Tensor:
        if self.map_noise is None:
            raw = positional_embedding(c_noise, self.config.noise_channels, endpoint=True)
        else:
            raw = self.map_noise(c_noise)
        # The published network feeds [sin, cos] where its embedding makes [cos, sin].
        cos, sin = raw.chunk(2, dim=1)
        embedding = torch.cat([sin, cos], dim=1).to(dtype)
        if label is not None:
            classes = self.map_label.in_features
            one_hot = F.embedding(label, self.map_label.weight.t()) * math.sqrt(classes)
            embedding = embedding + one_hot + self.map_label.bias
        embedding = F.silu(self.map_layer0(embedding))
        return F.silu(self.map_layer1(embedding))

    def forward(self, x: Tensor, c_noise: Tensor, label: Tensor | None = None) -> Tensor:
        """Run on x (N, C, H, W), c_noise (1,) or (N,), label (N,) int64 for class-conditional networks."""
        embedding = self._embedding(c_noise, label, x.dtype)
        skips: list[Tensor] = []
        aux = x
        for name, block in self.enc.items():
            if "aux_down" in name:
                aux = block(aux)
            elif "aux_skip" in name:
                x = skips[-1] + block(aux)
                skips[-1] = x
            elif "aux_residual" in name:
                x = aux = (skips[-1] + block(aux)) * math.sqrt(0.5)
                skips[-1] = x
            else:
                x = block(x, embedding) if isinstance(block, Block) else block(x)
                skips.append(x)
        result: Tensor | None = None
        normed = x
        for name, block in self.dec.items():
            if "aux_up" in name:
                result = block(result)
            elif "aux_norm" in name:
                normed = block(x)
            elif "aux_conv" in name:
                picture: Tensor = block(F.silu(normed))
                result = picture if result is None else picture + result
            else:
                if "_block" in name:
                    x = torch.cat([x, skips.pop()], dim=1)
                x = block(x, embedding)
        assert result is not None
        return result
