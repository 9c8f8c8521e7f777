"""The ADM UNet with a second time, the noise level to jump to (CTM, Kim et al. 2024, arXiv:2310.02279).

Names as in `cm/unet.py` of sony/ctm: `time_embed_s`, and `emb_layers_s` beside every `emb_layers`. Each block
maps both embeddings with its own linear layer and adds them; labels only go into the first.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cmexport.networks.adm_unet import AdmUnet, AdmUnetConfig, ResBlock, timestep_embedding


class CtmResBlock(ResBlock):
    """A residual block that takes both embeddings side by side, (1 or N, 2 * 4 model_channels)."""

    def __init__(self, config: AdmUnetConfig, channels: int, out_channels: int, resample: str | None = None) -> None:
        super().__init__(config, channels, out_channels, resample)
        rows = 2 * out_channels if self.scale_shift else out_channels
        self.emb_layers_s = nn.Sequential(nn.SiLU(), nn.Linear(4 * config.model_channels, rows))

    def project(self, embedding: Tensor) -> Tensor:
        """Sum of the two linear maps."""
        now, target = embedding.chunk(2, dim=1)
        result: Tensor = self.emb_layers(now) + self.emb_layers_s(target)
        return result


class CtmUnet(AdmUnet):
    """F(x, c_noise[, label][, c_noise_target]); without a target it jumps to `c_noise_target`, set at load."""

    block = CtmResBlock

    def __init__(self, config: AdmUnetConfig) -> None:
        super().__init__(config)
        base, embed = config.model_channels, 4 * config.model_channels
        self.time_embed_s = nn.Sequential(nn.Linear(base, embed), nn.SiLU(), nn.Linear(embed, embed))
        # 250 ln 0.002; the loader writes the model's own value.
        self.c_noise_target = -1553.6520246

    def forward(
        self, x: Tensor, c_noise: Tensor, label: Tensor | None = None, c_noise_target: Tensor | None = None
    ) -> Tensor:
        """Run on x (N, C, H, W); c_noise and c_noise_target (1,) float64; label (N,) int64."""
        if c_noise_target is None:
            c_noise_target = torch.full((1,), self.c_noise_target, dtype=torch.float64)
        now = self.embed(c_noise, label, x.dtype)
        target = self.time_embed_s(timestep_embedding(c_noise_target, self.config.model_channels).to(x.dtype))
        return self.decode(x, torch.cat([now, target.expand(now.shape[0], -1)], dim=1))
