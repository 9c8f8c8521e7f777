"""The network that the recorded artefacts of manifest version 1 were made from: 147 weights, always the same."""

import torch
from torch import nn

SPEC = {"image_size": 8, "num_classes": 3, "levels": 40, "precond": "cm", "c_noise": "250ln", "sigma_data": 0.5}
SPEC |= {"sigma_min": 0.002, "sigma_max": 80.0, "rho": 7.0, "renoise": "cm", "clamp": True}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 3, 1)
        self.classes, self.level = nn.Embedding(3, 4), nn.Linear(1, 4)
        for n, weight in enumerate(self.parameters()):
            values = torch.arange(weight.numel(), dtype=torch.float64)
            weight.data = (0.5 * torch.sin(1.0 + 7.0 * n + values)).float().view_as(weight)

    def forward(self, x, c_noise, label):
        condition = self.classes(label) + self.level(c_noise.float()[:, None] / 1000.0)
        return self.last(torch.tanh(self.first(x) + condition[:, :, None, None]))


def build():
    return Net(), SPEC
