"""A diffusers `UNet2DConditionModel` behind this project's calling convention, and the embedding of guidance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cmexport.networks.diffusers_unet import DoubleSinusoid, halvings


class _TimeIds(nn.Module):
    """The embedding of SDXL's six numbers, which say a picture's size: constants of a graph."""

    def __init__(self, ids: Sequence[int], projection: Any) -> None:
        super().__init__()
        embed = DoubleSinusoid(
            projection.num_channels, projection.flip_sin_to_cos, projection.downscale_freq_shift, projection.scale
        )
        embedded = embed(torch.tensor(ids, dtype=torch.float64)).float()
        self.register_buffer("embedded", embedded, persistent=False)

    def forward(self, flat: Tensor) -> Tensor:
        """Return the embeddings of the ids of all pictures, one after the other, (6 N, channels)."""
        embedded = self.get_buffer("embedded")
        return embedded.repeat(len(flat) // len(embedded), 1)


class ConditionalUnet(nn.Module):
    """F(x, t, embeddings[, guidance][, pooled]) computed by the library's own network; see `DiffusersUnet`.

    Args:
        unet: a `UNet2DConditionModel`.
        time_ids: of a UNet of SDXL, what it is told of a picture: height and width that it had, top and left where it
            was cut out, height and width that it should have, pixels (Podell et al. 2023, arXiv:2307.01952, 2.2).
    """

    def __init__(self, unet: nn.Module, time_ids: Sequence[int] = ()) -> None:
        super().__init__()
        self.multiple = halvings(unet)
        projection: Any = unet.time_proj
        unet.time_proj = DoubleSinusoid(
            projection.num_channels, projection.flip_sin_to_cos, projection.downscale_freq_shift, projection.scale
        )
        self.time_ids = len(time_ids)
        if time_ids:
            unet.add_time_proj = _TimeIds(time_ids, unet.add_time_proj)
        self.unet = unet

    def forward(
        self,
        x: Tensor,
        c_noise: Tensor,
        embeddings: Tensor,
        guidance: Tensor | None = None,
        pooled: Tensor | None = None,
    ) -> Tensor:
        """Run on latents x (N, C, H, W), c_noise (1,) float64, embeddings (N, 77, D), embedded guidance (N, G).

        Besides, of SDXL, on the pooled prompt (N, P).
        """
        added = None
        if pooled is not None:
            added = {"text_embeds": pooled, "time_ids": pooled.new_zeros(len(pooled), self.time_ids)}
        result: Tensor = self.unet(
            x, c_noise, embeddings, timestep_cond=guidance, added_cond_kwargs=added, return_dict=False
        )[0]
        return result


class GuidanceEmbedding(nn.Module):
    """Guidance scales (N,) to their embedding (N, channels), [sin, cos] of 1000 (scale - 1).

    diffusers `LatentConsistencyModelPipeline.get_guidance_scale_embedding` (Luo et al. 2023, arXiv:2310.04378), in
    float64: 7,500 radians cost float32 half a thousandth.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, guidance: Tensor) -> Tensor:
        """Embed guidance scales."""
        half = self.channels // 2
        frequencies = torch.exp(torch.arange(half, dtype=torch.float64) * (-math.log(10000.0) / (half - 1)))
        angles = (1000.0 * (guidance.to(torch.float64) - 1.0))[:, None] * frequencies[None]
        embedding = torch.cat([torch.sin(angles), torch.cos(angles)], dim=1)
        return nn.functional.pad(embedding, (0, self.channels % 2)).to(guidance.dtype)
