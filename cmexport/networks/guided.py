"""Classifier-free guidance (Ho and Salimans 2022, arXiv:2207.12598): two evaluations of a network instead of one."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class GuidedNetwork(nn.Module):
    """u + guidance (F(x, t, embeddings) - u), where u = F(x, t, empty), as diffusers' StableDiffusionPipeline has it.

    The two are evaluated one after the other and not as a batch of two: then what depends on the empty prompt alone,
    its keys and values, is a constant, and a closed list of prompts still becomes a table.

    Args:
        network: F.
        empty: embeddings of the empty prompt, (1, 77, D).
        largest: the largest scale that it will be called with.
    """

    def __init__(self, network: nn.Module, empty: Tensor, largest: float) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("empty", empty, persistent=False)
        self.amplification = 2.0 * largest - 1.0
        """By how much it multiplies the rounding of F at most: |guidance| + |1 - guidance|."""

    def forward(self, x: Tensor, c_noise: Tensor, embeddings: Tensor, guidance: Tensor) -> Tensor:
        """Run on latents x (N, C, H, W), c_noise (1,) float64, embeddings (N, 77, D), guidance (N,)."""
        unguided: Tensor = self.network(x, c_noise, embeddings=self.get_buffer("empty").expand_as(embeddings))
        guided: Tensor = self.network(x, c_noise, embeddings=embeddings)
        return unguided + torch.reshape(guidance, (-1, 1, 1, 1)) * (guided - unguided)
