"""Classifier-free guidance (Ho and Salimans 2022, arXiv:2207.12598): two evaluations of a network instead of one."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class GuidedNetwork(nn.Module):
    """u + guidance (F(x, t, said) - u), where u = F(x, t, empty), as diffusers' StableDiffusionPipeline has it.

    The two are evaluated one after the other and not as a batch of two: then what depends on the empty prompt alone,
    its keys and values, is a constant, and a closed list of prompts still becomes a table.

    Args:
        network: F.
        empty: what F is called with for no prompt, by name: embeddings (1, 77, D), of some pooled (1, P).
        largest: the largest scale that it will be called with.
    """

    def __init__(self, network: nn.Module, empty: Mapping[str, Tensor], largest: float) -> None:
        super().__init__()
        self.network = network
        for name, value in empty.items():
            self.register_buffer(f"empty_{name}", value, persistent=False)
        self.amplification = 2.0 * largest - 1.0
        """By how much it multiplies the rounding of F at most: |guidance| + |1 - guidance|."""

    def forward(self, x: Tensor, c_noise: Tensor, guidance: Tensor, **said: Tensor) -> Tensor:
        """Run on latents x (N, C, H, W), c_noise (1,) float64, guidance (N,), and what F takes, by name."""
        empty = {name: self.get_buffer(f"empty_{name}").expand_as(value) for name, value in said.items()}
        unguided: Tensor = self.network(x, c_noise, **empty)
        guided: Tensor = self.network(x, c_noise, **said)
        return unguided + torch.reshape(guidance, (-1, 1, 1, 1)) * (guided - unguided)
