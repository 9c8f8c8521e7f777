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


def cm_without_c_in(sigma: float, noise: NoiseRange) -> Scalings:
    """`cm`, but the network sees the unscaled sample: Kinyugo's and LYMDLUT's iCT re-implementations."""
    boundary = cm(sigma, noise)
    return Scalings(c_skip=boundary.c_skip, c_out=boundary.c_out, c_in=1.0)


def consistency_pipeline(sigma: float, noise: NoiseRange) -> Scalings:
    """Scale as the third-party `ConsistencyPipeline` (junhsss): c_skip of `cm`, c_out of `edm`, unscaled sample.

    It keeps no boundary condition exactly: f(x, sigma_min) = x + c_out F with c_out = 0.002.
    """
    return Scalings(c_skip=cm(sigma, noise).c_skip, c_out=edm(sigma, noise).c_out, c_in=1.0)


def trigflow(sigma: float, noise: NoiseRange) -> Scalings:
    """TrigFlow (sCM, Lu & Song 2024, arXiv:2410.11081) in the variables of EDM; f(x, 0) = x.

    With t = arctan(s/d), x_t = cos(t) x and f = cos(t) x_t - sin(t) d F(x_t / d): cos^2(t) = d^2/(s^2+d^2),
    sin(t) d = s d/sqrt(s^2+d^2), cos(t)/d = 1/sqrt(s^2+d^2). It is `edm` with the sign of F turned.
    """
    same = edm(sigma, noise)
    return Scalings(c_skip=same.c_skip, c_out=-same.c_out, c_in=same.c_in)


def meanflow(sigma: float, noise: NoiseRange) -> Scalings:  # noqa: ARG001
    """Average velocity from data to noise (MeanFlow, Geng et al. 2025, arXiv:2505.13447) down to time 0; f(x, 0) = x.

    With t = s/(1+s), z_t = (1-t) x and f = z_t - t u(z_t): c_skip = c_in = 1/(1+s), c_out = -s/(1+s).
    """
    return Scalings(c_skip=1.0 / (1.0 + sigma), c_out=-sigma / (1.0 + sigma), c_in=1.0 / (1.0 + sigma))


def consistency_flow(sigma: float, noise: NoiseRange) -> Scalings:  # noqa: ARG001
    """Velocity from noise to data (Consistency-FM, Yang et al. 2024, arXiv:2407.02398); f(x, 0) = x.

    Time runs the other way: t = 1/(1+s), x_t = t x and f = x_t + (1-t) v(x_t).
    """
    return Scalings(c_skip=1.0 / (1.0 + sigma), c_out=sigma / (1.0 + sigma), c_in=1.0 / (1.0 + sigma))


def ctm(sigma: float, noise: NoiseRange) -> Scalings:
    """Consistency trajectory model (Kim et al. 2024, arXiv:2310.02279) jumping from sigma to sigma_min; G(x, e, e) = x.

    G = (e/s) x + (1 - e/s) g with g in `edm` form; the network itself also knows the target e.
    """
    return ctm_between(sigma, noise.sigma_min, noise)


def ctm_cm(sigma: float, noise: NoiseRange) -> Scalings:
    """`ctm` with g in `cm` form, as Consistency Policy (Prasad et al. 2024) has it with `scaling: boundary`."""
    return stepped(cm(sigma, noise), sigma, noise.sigma_min)


def ctm_between(sigma: float, target: float, noise: NoiseRange) -> Scalings:
    """G(x, sigma, target) of CTM: the `edm` picture, mixed with x so that G(x, s, s) = x."""
    return stepped(edm(sigma, noise), sigma, target)


def stepped(inner: Scalings, sigma: float, target: float) -> Scalings:
    """One step along the line from x to its picture: (s'/s) x + (1 - s'/s) f(x, s)."""
    kept = target / sigma
    return Scalings(c_skip=kept + (1.0 - kept) * inner.c_skip, c_out=(1.0 - kept) * inner.c_out, c_in=inner.c_in)


def _log_sigma(sigma: float) -> float:
    # OpenAI writes log(sigma + 1e-44) so that sigma = 0 stays finite; 1e-44 vanishes beside every sigma used.
    return math.log(sigma + 1e-44)


PRECONDITIONINGS: Mapping[str, Callable[[float, NoiseRange], Scalings]] = MappingProxyType(
    {
        "cm": cm,
        "edm": edm,
        "trigflow": trigflow,
        "meanflow": meanflow,
        "consistency_flow": consistency_flow,
        "ctm": ctm,
        "ctm_cm": ctm_cm,
        "cm_without_c_in": cm_without_c_in,
        "consistency_pipeline": consistency_pipeline,
    }
)

C_NOISE: Mapping[str, Callable[[float], float]] = MappingProxyType(
    {
        # openai/consistency_models cm/karras_diffusion.py: 1000 * 0.25 * log(sigma); 1095.5067 at sigma 80.
        "250ln": lambda sigma: 250.0 * _log_sigma(sigma),
        # Karras et al. 2022, table 1: log(sigma) / 4.
        "0.25ln": lambda sigma: 0.25 * _log_sigma(sigma),
        # Third-party re-implementations feed sigma itself.
        "sigma": lambda sigma: sigma,
        # sCM: the TrigFlow time itself, for pictures of sigma_data 0.5 or 1; 1.5645 at sigma 80 and 0.5.
        "arctan_0.5": lambda sigma: math.atan(sigma / 0.5),
        "arctan_1": lambda sigma: math.atan(sigma),
        # MeanFlow: the interpolation time, 1 at pure noise.
        "flow": lambda sigma: sigma / (1.0 + sigma),
        # Consistency-FM: 999 t, where time runs from noise (0) to data (1).
        "999flow": lambda sigma: 999.0 / (1.0 + sigma),
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
    """Return the number the time embedding receives at `sigma`.

    Raises:
        UsageError: the name is unknown.
    """
    if name not in C_NOISE:
        raise UsageError(f"unknown c_noise '{name}'; known: {', '.join(C_NOISE)}")
    return C_NOISE[name](sigma)
