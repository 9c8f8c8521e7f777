"""One evaluation of a consistency model: f(x, sigma) = c_skip x + c_out F(c_in x, c_noise)."""

from __future__ import annotations

import torch
from torch import Tensor

from cmexport.model import ConsistencyModel
from cmexport.sampling.preconditioning import c_noise_at, scalings_at


def denoise(model: ConsistencyModel, x: Tensor, sigma: float, **conditions: Tensor) -> Tensor:
    """Return the model's picture of x at noise level sigma, without clamping.

    Args:
        model: the model.
        x: (N, C, H, W), a picture plus sigma times unit noise.
        sigma: noise level; scalars are computed in float64.
        conditions: what the network is called with besides: `label` (N,) int64 for class-conditional models.

    Raises:
        ValueError: the network changes the shape.
    """
    scalings = scalings_at(model.preconditioning, sigma, model.noise)
    c_noise = torch.tensor([c_noise_at(model.c_noise, sigma)], dtype=torch.float64)
    with torch.no_grad():
        predicted: Tensor = model.network(scalings.c_in * x, c_noise, **conditions)
    if predicted.shape != x.shape:
        raise ValueError(f"the network turns shape {tuple(x.shape)} into {tuple(predicted.shape)}")
    return scalings.c_skip * x + scalings.c_out * predicted
