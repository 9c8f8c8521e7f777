"""The DhariwalUNet of NVlabs/edm: the ADM network (arXiv:2105.05233) in EDM's layout.

As many parameters as OpenAI's ImageNet-64 network (295,899,267), but another layout, time scale and label path.
Weight names are those of the published checkpoints without their `model.` prefix, without augmentation inputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmexport.networks.edm_blocks import BOX, Block, BlockStyle, ResampledConv, group_norm, positional_embedding


@dataclass(frozen=True)
class DhariwalUnetConfig:
    """Everything that fixes a DhariwalUNet.

    Attributes:
        image_size: height and width of the pictures, pixels.
        in_channels, out_channels: picture channels in and out.
        model_channels: width of the raw time embedding.
        widths: channels per resolution, highest first.
        num_blocks: residual blocks per resolution on the way down (one more on the way up).
        attention_resolutions: picture sizes at which attention sits, pixels.
        embedding_channels: width of the mapped embedding.
        num_classes: width of the one-hot label, None without labels.
        head_width: channels per attention head.
        resample_filter: [1, 1] in every published network.
    """

    image_size: int
    model_channels: int
    widths: tuple[int, ...]
    num_blocks: int
    attention_resolutions: tuple[int, ...]
    embedding_channels: int
    in_channels: int = 3
    out_channels: int = 3
    num_classes: int | None = None
    head_width: int = 64
    resample_filter: tuple[float, ...] = BOX


class DhariwalUnet(nn.Module):
    """F(x, c_noise[, label]); see `DhariwalUnetConfig`."""

    def __init__(self, config: DhariwalUnetConfig) -> None:
        super().__init__()
        self.config = config
        style = BlockStyle(
            embedding=config.embedding_channels,
            adaptive_scale=True,
            skip_scale=1.0,
            eps=1e-5,
            head_width=config.head_width,
            resample_filter=config.resample_filter,
        )
        self.map_layer0 = nn.Linear(config.model_channels, config.embedding_channels)
        self.map_layer1 = nn.Linear(config.embedding_channels, config.embedding_channels)
        if config.num_classes is not None:
            self.map_label = nn.Linear(config.num_classes, config.embedding_channels, bias=False)

        encoder: dict[str, nn.Module] = {}
        width = config.widths[0]
        skips = []
        for level, out in enumerate(config.widths):
            size = config.image_size >> level
            if level == 0:
                encoder[f"{size}x{size}_conv"] = ResampledConv(config.in_channels, width, 3)
            else:
                encoder[f"{size}x{size}_down"] = Block(style, width, width, resample="down")
            skips.append(width)
            for index in range(config.num_blocks):
                attention = size in config.attention_resolutions
                encoder[f"{size}x{size}_block{index}"] = Block(style, width, out, attention=attention)
                width = out
                skips.append(width)
        self.enc = nn.ModuleDict(encoder)

        decoder: dict[str, nn.Module] = {}
        for level, out in reversed(list(enumerate(config.widths))):
            size = config.image_size >> level
            if level == len(config.widths) - 1:
                decoder[f"{size}x{size}_in0"] = Block(style, width, width, attention=True)
                decoder[f"{size}x{size}_in1"] = Block(style, width, width)
            else:
                decoder[f"{size}x{size}_up"] = Block(style, width, width, resample="up")
            for index in range(config.num_blocks + 1):
                attention = size in config.attention_resolutions
                decoder[f"{size}x{size}_block{index}"] = Block(style, width + skips.pop(), out, attention=attention)
                width = out
        self.dec = nn.ModuleDict(decoder)
        self.out_norm = group_norm(width, 1e-5)
        self.out_conv = ResampledConv(width, config.out_channels, 3)

    def forward(self, x: Tensor, c_noise: Tensor, label: Tensor | None = None) -> Tensor:
        """Run on x (N, C, H, W), c_noise (1,) or (N,), label (N,) int64 for class-conditional networks."""
        embedding = positional_embedding(c_noise, self.config.model_channels, endpoint=False).to(x.dtype)
        embedding = self.map_layer1(F.silu(self.map_layer0(embedding)))
        if label is not None:
            embedding = embedding + F.embedding(label, self.map_label.weight.t())
        embedding = F.silu(embedding)
        skips: list[Tensor] = []
        for block in self.enc.values():
            x = block(x, embedding) if isinstance(block, Block) else block(x)
            skips.append(x)
        for name, block in self.dec.items():
            if "_block" in name:
                x = torch.cat([x, skips.pop()], dim=1)
            x = block(x, embedding)
        result: Tensor = self.out_conv(F.silu(self.out_norm(x)))
        return result
