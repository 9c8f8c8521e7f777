"""TrigFlow, velocity and third-party forms against their published formulas in their own variables, in float64."""

import math
from itertools import pairwise

import pytest
import torch

from cmexport.errors import UsageError
from cmexport.model import CheckpointSource, ConsistencyModel, NoiseRange, SampleRequest, Space
from cmexport.sampling.denoiser import denoise
from cmexport.sampling.deterministic import euler_schedule, plan_euler, plan_exact
from cmexport.sampling.methods import resolve
from cmexport.sampling.preconditioning import PRECONDITIONINGS, c_noise_at, scalings_at
from cmexport.sampling.samplers import SamplerGraph

NOISE = NoiseRange(sigma_min=0.002, sigma_max=80.0, sigma_data=0.5, rho=7.0, levels=40)
GENERATOR = torch.Generator().manual_seed(0)
Z, Z2 = (torch.randn(2, 3, 4, 4, generator=GENERATOR, dtype=torch.float64) for _ in range(2))


class Network(torch.nn.Module):
    """Any smooth function of the picture and the time."""

    def forward(self, x, c_noise, label=None):
        return torch.sin(1.3 * x + 0.2 * c_noise[:, None, None, None]) + 0.3 * x.roll(1, dims=3)


def model(precond, c_noise, noise=NOISE, renoise="ect", clamp=False):
    return ConsistencyModel(
        network=Network(),
        architecture={"name": "test"},
        space=Space(3, 4, 4),
        preconditioning=precond,
        c_noise=c_noise,
        noise=noise,
        conditions=(),
        renoise=renoise,
        clamp=clamp,
        source=CheckpointSource("x", "test", "", 0),
    )


def call(x, time):
    return Network()(x, torch.tensor([time], dtype=torch.float64))


def test_trigflow_two_steps():
    """sCM: x_t = cos t x0 + sin t z with z ~ N(0, d^2); f = cos t x_t - sin t d F(x_t / d, t)."""
    d, times = 0.5, (math.atan(80.0 / 0.5), 1.1)
    x = math.cos(times[0]) * 0 + math.sin(times[0]) * d * Z
    pictures = []
    for index, t in enumerate(times):
        if index:
            x = math.cos(t) * pictures[-1] + math.sin(t) * d * Z2
        pictures.append(math.cos(t) * x - math.sin(t) * d * call(x / d, t))
    made = model("trigflow", "arctan_0.5")
    sigmas = tuple(d * math.tan(t) for t in times)
    graph = SamplerGraph(resolve(made, SampleRequest(sigmas=sigmas, batch=2)))
    assert torch.allclose(graph(Z, renoise=Z2[None]), pictures[-1], atol=1e-9)


def test_meanflow_one_step():
    """z_1 = e, x = e - u(e, t = 1): sigma_max stands for infinity, 1e8 is 1 within float32."""
    made = model("meanflow", "flow", NoiseRange(1e-4, 1e8, 0.5, 7.0, 2))
    graph = SamplerGraph(resolve(made, SampleRequest(batch=2)))
    assert torch.allclose(graph(Z), Z - call(Z, 1.0), atol=1e-6)


def test_meanflow_in_between():
    t = 0.6
    z = (1 - t) * Z2 + t * Z
    made = model("meanflow", "flow")
    assert torch.allclose(denoise(made, z / (1 - t), t / (1 - t)), z - t * call(z, t), atol=1e-9)


def euler(made, sigmas):
    """Pictures of Z by `--sampler euler`, unclamped as the toys are."""
    return resolve(made, SampleRequest(sigmas=tuple(sigmas), batch=len(Z), sampler="euler")).module()(Z)


def test_consistency_flow_euler():
    """x_0 = z, x <- x + v(x, 999 t) / N: the first level is infinite in EDM's variables, so time starts at 1e-6."""
    steps, start = 4, 1e-6
    times = [start + (1 - start) * i / steps for i in range(steps + 1)]
    x = (1 - start) * Z
    for now, then in pairwise(times):
        x = x + (then - now) * call(x, 999 * now)
    made = model("consistency_flow", "999flow", NoiseRange(1e-4, 1e7, 0.5, 7.0, 2))
    sigmas = [(1 - t) / t for t in times[:-1]]
    assert torch.allclose(euler(made, sigmas), x, atol=1e-8)
    start = 1 / (1 + 1e7)
    evenly = [start + (1 - start) * i / steps for i in range(steps)]
    assert euler_schedule(made, steps, "generate", 0).sigmas == pytest.approx([(1 - t) / t for t in evenly])


def test_deterministic_steps_of_edm_are_ddim():
    made = model("edm", "0.25ln")
    x = 80.0 * Z
    for s, end in ((80.0, 3.0), (3.0, 0.0)):
        x0 = denoise(made, x, s)
        x = x0 + end * (x - x0) / s
    assert torch.allclose(euler(made, (80.0, 3.0)), x, atol=1e-9)
    with pytest.raises(UsageError, match="descend"):
        plan_euler(made, (3.0, 80.0))
    with pytest.raises(UsageError, match="told where to jump"):
        plan_exact(made, (80.0, 3.0))


@pytest.mark.parametrize("name", sorted(PRECONDITIONINGS))
def test_boundary_conditions(name):
    if name == "consistency_pipeline":
        found = scalings_at(name, NOISE.sigma_min, NOISE)
        assert (found.c_skip, found.c_in) == (1.0, 1.0)
        assert found.c_out == pytest.approx(0.002, rel=1e-4)
        return
    at = NOISE.sigma_min if name in ("cm", "ctm", "ctm_cm", "cm_without_c_in") else 0.0
    found = scalings_at(name, at, NOISE)
    assert (found.c_skip, found.c_out) == (1.0, 0.0)


def test_times():
    assert c_noise_at("arctan_0.5", 80.0) == pytest.approx(1.564546, abs=1e-6)
    assert c_noise_at("flow", 1.0) == 0.5
    assert c_noise_at("999flow", 1.0) == 499.5


def test_a_network_that_changes_the_shape():
    made = model("cm", "250ln")
    broken = type(made)(**{**vars(made), "network": torch.nn.Flatten()})
    with pytest.raises((ValueError, TypeError)):
        denoise(broken, Z, 1.0)
