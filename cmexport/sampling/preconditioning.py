"""Preconditioning: the scalars that wrap the network, as pure float64 functions of sigma.

f(x, sigma) = c_skip x + c_out F(c_in x, c_noise). With s = sigma, d = sigma_data, e = sigma_min:

* `edm`: c_skip = d^2/(s^2+d^2), c_out = s d/sqrt(s^2+d^2), c_in = 1/sqrt(s^2+d^2)
  (Karras et al. 2022, arXiv:2206.00364, table 1).
* `cm`: c_skip = d^2/((s-e)^2+d^2), c_out = (s-e) d/sqrt(s^2+d^2), c_in as above, so that f(x, e) = x exactly
  (Song et al. 2023, arXiv:2303.01469, appendix C; openai/consistency_models cm/karras_diffusion.py).

Everything is a Python float: constants are folded in double precision before they meet a tensor. In half precision
(80 - 0.002) would already be 80, and c_skip(80) = 3.9e-5 is subnormal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from cmexport.errors import UsageError
from cmexport.model import NoiseRange


@dataclass(frozen=True)
class Scalings:
    """c_skip, c_out and c_in at one sigma; dimensionless."""

    c_skip: float
    c_out: float
    c_in: float


def edm(sigma: float, noise: NoiseRange) -> Scalings:
    """EDM preconditioning; f(x, 0) = x."""
    variance = sigma**2 + noise.sigma_data**2
    return Scalings(
        c_skip=noise.sigma_data**2 / variance,
        c_out=sigma * noise.sigma_data / math.sqrt(variance),
        c_in=1.0 / math.sqrt(variance),
    )


def cm(sigma: float, noise: NoiseRange) -> Scalings:
    """Consistency preconditioning with the boundary condition; f(x, sigma_min) = x."""
    above = sigma - noise.sigma_min
    norm = math.sqrt(sigma**2 + noise.sigma_data**2)
    return Scalings(
        c_skip=noise.sigma_data**2 / (above**2 + noise.sigma_data**2),
        c_out=above * noise.sigma_data / norm,
        c_in=1.0 / norm,
    )


def _log_sigma(sigma: float) -> float:
    # OpenAI writes log(sigma + 1e-44) so that sigma = 0 stays finite; 1e-44 vanishes beside every sigma used.
    return math.log(sigma + 1e-44)


PRECONDITIONINGS: Mapping[str, Callable[[float, NoiseRange], Scalings]] = MappingProxyType({"cm": cm, "edm": edm})

C_NOISE: Mapping[str, Callable[[float], float]] = MappingProxyType(
    {
        # openai/consistency_models cm/karras_diffusion.py: 1000 * 0.25 * log(sigma); 1095.5067 at sigma 80.
        "250ln": lambda sigma: 250.0 * _log_sigma(sigma),
        # Karras et al. 2022, table 1: log(sigma) / 4.
        "0.25ln": lambda sigma: 0.25 * _log_sigma(sigma),
        # Third-party re-implementations feed sigma itself.
        "sigma": lambda sigma: sigma,
    }
)


def scalings_at(preconditioning: str, sigma: float, noise: NoiseRange) -> Scalings:
    """Scalars of a named preconditioning.

    Raises:
        UsageError: the name is unknown.
    """
    if preconditioning not in PRECONDITIONINGS:
        raise UsageError(f"unknown precond '{preconditioning}'; known: {', '.join(PRECONDITIONINGS)}")
    return PRECONDITIONINGS[preconditioning](sigma, noise)


def c_noise_at(name: str, sigma: float) -> float:
    """The number the time embedding receives at `sigma`.

    Raises:
        UsageError: the name is unknown.
    """
    if name not in C_NOISE:
        raise UsageError(f"unknown c_noise '{name}'; known: {', '.join(C_NOISE)}")
    return C_NOISE[name](sigma)
