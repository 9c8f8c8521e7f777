"""The small feature network that ships as a ruler of CIFAR-10 quality: a ResNet-9 without its classifier.

State dict: `prep`, `l1`, `l2`, `l3` and `r1.{0,1}`, `r3.{0,1}`, each a convolution `.0.weight` and a BatchNorm `.1.*`
(named as the file has them), plus `_mu` (D,) and `_cov` (D, D), the statistics of the training pictures.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def _block(inputs: int, outputs: int, pool: bool = False) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    ]
    return nn.Sequential(*layers, *([nn.MaxPool2d(2)] if pool else []))


class Ruler(nn.Module):
    """(N, 3, 32, 32) in [-1, 1] to features (N, 256); pictures are rounded to bytes first, as files would be."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.prep = _block(3, 64)
        self.l1 = _block(64, 128, pool=True)
        self.r1 = nn.Sequential(_block(128, 128), _block(128, 128))
        self.l2 = _block(128, 256, pool=True)
        self.l3 = _block(256, 256, pool=True)
        self.r3 = nn.Sequential(_block(256, 256), _block(256, 256))
        self.fc = nn.Linear(256, classes)

    def forward(self, pictures: Tensor) -> Tensor:
        """Features of pictures."""
        levels = ((pictures + 1.0) * 127.5).round().clamp(0.0, 255.0)
        x = self.l1(self.prep(levels / 127.5 - 1.0))
        x = self.l3(self.l2(x + self.r1(x)))
        features: Tensor = torch.mean(x + self.r3(x), dim=(2, 3))
        return features
