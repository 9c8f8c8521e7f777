"""Preconditioning scalars against published numbers and against identities that hold for every sigma."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmexport.errors import UsageError
from cmexport.model import NoiseRange
from cmexport.sampling.preconditioning import C_NOISE, c_noise_at, cm, edm, scalings_at

OPENAI = NoiseRange(sigma_min=0.002, sigma_max=80.0, sigma_data=0.5, rho=7.0, levels=40)

sigmas = st.floats(0.002, 1000.0)
ranges = st.builds(
    NoiseRange,
    sigma_min=st.floats(1e-4, 0.1),
    sigma_max=st.just(80.0),
    sigma_data=st.floats(0.05, 4.0),
    rho=st.just(7.0),
    levels=st.just(40),
)


def test_cm_at_80_has_the_published_values():
    # Measured with openai/consistency_models' own KarrasDenoiser.get_scalings_for_boundary_condition.
    scalings = cm(80.0, OPENAI)
    assert scalings.c_skip == pytest.approx(3.906293e-05, rel=2e-7)
    assert scalings.c_out == pytest.approx(0.499977735, rel=2e-9)
    assert scalings.c_in == pytest.approx(1.249976e-02, rel=5e-7)


def test_cm_and_edm_differ_where_the_boundary_is():
    """In half precision 80 - 0.002 would be 80 and both would agree at 80: the difference must be there."""
    assert cm(80.0, OPENAI).c_skip > edm(80.0, OPENAI).c_skip
    assert cm(80.0, OPENAI).c_out / edm(80.0, OPENAI).c_out == pytest.approx(1 - 0.002 / 80, abs=1e-15)
    assert cm(80.0, OPENAI).c_in == edm(80.0, OPENAI).c_in


@given(noise=ranges)
def test_cm_is_the_identity_at_sigma_min(noise):
    scalings = cm(noise.sigma_min, noise)
    assert (scalings.c_skip, scalings.c_out) == (1.0, 0.0)


@given(noise=ranges)
def test_edm_is_the_identity_at_zero(noise):
    scalings = edm(0.0, noise)
    assert (scalings.c_skip, scalings.c_out) == (1.0, 0.0)
    assert scalings.c_in * noise.sigma_data == pytest.approx(1.0, rel=1e-15)


@given(sigma=sigmas, noise=ranges)
def test_edm_is_trigflow_in_other_coordinates(sigma, noise):
    """With t = arctan(sigma / d): c_skip = cos^2 t, c_out = d sin t, c_in = cos t / d."""
    t = math.atan2(sigma, noise.sigma_data)
    scalings = edm(sigma, noise)
    assert scalings.c_skip == pytest.approx(math.cos(t) ** 2, rel=1e-9, abs=1e-16)
    assert scalings.c_out == pytest.approx(noise.sigma_data * math.sin(t), rel=1e-12)
    assert scalings.c_in == pytest.approx(math.cos(t) / noise.sigma_data, rel=1e-9)


@given(sigma=sigmas, noise=ranges)
def test_the_network_always_sees_unit_variance(sigma, noise):
    """A picture of variance d^2 plus noise sigma has variance d^2 + sigma^2; c_in makes that 1."""
    variance = noise.sigma_data**2 + sigma**2
    for name in ("cm", "edm"):
        assert scalings_at(name, sigma, noise).c_in ** 2 * variance == pytest.approx(1.0, rel=1e-12)


@given(sigma=sigmas, data=st.floats(0.05, 4.0))
def test_cm_tends_to_edm_as_sigma_min_goes_to_zero(sigma, data):
    noise = NoiseRange(sigma_min=0.0, sigma_max=80.0, sigma_data=data, rho=7.0, levels=40)
    assert cm(sigma, noise) == edm(sigma, noise)


@given(sigma=st.floats(0.002, 80.0))
def test_every_factor_a_one_step_graph_multiplies_by_is_a_normal_half(sigma):
    """The graph holds c_in sigma, c_skip sigma and c_out, never 80 or 3.9e-5."""
    scalings = cm(sigma, OPENAI)
    for factor in (scalings.c_in * sigma, scalings.c_skip * sigma):
        assert 2.0**-14 <= factor <= 2.0
    assert 0.0 <= scalings.c_out <= 0.5


@pytest.mark.parametrize(
    ("name", "sigma", "expected"),
    [
        ("250ln", 80.0, 1095.5067),
        ("250ln", 0.002, -1553.6520),
        ("250ln", 1.382368, 80.9495),
        ("0.25ln", 80.0, 1.0955067),
        ("0.25ln", 1.0, 0.0),
        ("sigma", 80.0, 80.0),
    ],
)
def test_c_noise_has_the_published_values(name, sigma, expected):
    assert c_noise_at(name, sigma) == pytest.approx(expected, abs=1e-4)


def test_log_c_noise_is_finite_at_zero():
    assert math.isfinite(C_NOISE["250ln"](0.0))


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(UsageError, match=r"unknown precond 'edm2'; known: cm, edm") as caught:
        scalings_at("edm2", 80.0, OPENAI)
    assert caught.value.exit_code == 2
    with pytest.raises(UsageError, match=r"unknown c_noise 'log'; known: 250ln"):
        c_noise_at("log", 80.0)
