"""Consistency trajectory models: a second time, and G(x, t, s) as published."""

import copy
import math

import pytest
import torch

from cmexport.checkpoints import load_checkpoint
from cmexport.errors import UsageError
from cmexport.graph.capture import capture
from cmexport.graph.rewrites import REWRITES
from cmexport.graph.rewriting import apply_rewrites
from cmexport.model import SampleRequest
from cmexport.networks.adm_unet import AdmUnetConfig
from cmexport.networks.ctm_unet import CtmUnet
from cmexport.sampling.methods import resolve
from cmexport.sampling.samplers import SamplerGraph

FIELDS = {"num_head_channels": "32", "image_size": "16"}


@pytest.fixture(params=[True, False], ids=["scale_shift", "additive"])
def weights(request, adm):
    plain = adm(num_classes=4, use_scale_shift_norm=request.param)
    network = CtmUnet(AdmUnetConfig(**vars(plain.config)))
    generator = torch.Generator().manual_seed(7)
    state = {
        key: plain.state_dict().get(key, 0.2 * torch.randn(value.shape, generator=generator))
        for key, value in network.state_dict().items()
    }
    return plain, state


@pytest.fixture
def model(weights, save):
    return load_checkpoint(save(weights[1]), FIELDS)


X = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(2))
LABEL = torch.tensor([1, 3])


def time(value):
    return torch.tensor([value], dtype=torch.float64)


def test_without_its_own_linear_layers_the_target_does_nothing(weights, save):
    plain, state = weights
    silent = {k: torch.zeros_like(v) if "emb_layers_s" in k else v for k, v in state.items()}
    model = load_checkpoint(save(silent), FIELDS)
    got = model.network(X, time(80.0), LABEL, time(-300.0))
    assert torch.allclose(got, plain(X, time(80.0), LABEL), atol=1e-5)


def test_the_target_acts_as_a_time_of_its_own(weights, save):
    """With the roles of the two embeddings exchanged, the network must equal the plain one at the target's time."""
    plain, state = weights
    swapped = dict(state)
    for key in state:
        if "emb_layers_s" in key:
            swapped[key] = state[key.replace("_s.", ".")]
            swapped[key.replace("_s.", ".")] = torch.zeros_like(state[key])
        if key.startswith("time_embed."):
            swapped[key.replace("time_embed", "time_embed_s")] = state[key]
    without_label = load_checkpoint(save({**swapped, "label_emb.weight": torch.zeros(4, 128)}), FIELDS)
    reference = load_checkpoint(save({k: v for k, v in plain.state_dict().items() if "label" not in k}), FIELDS)
    got = without_label.network(X, time(-9.0), LABEL, time(41.0))
    assert torch.allclose(got, reference.network(X, time(41.0)), atol=1e-5)
    assert not torch.allclose(got, reference.network(X, time(40.0)), atol=1e-3)


def published_g(network, x, t, s, d=0.5, dtype=torch.float32):
    """CTM's equation 9 with the EDM inner form, in float64; the network takes `dtype`."""
    c = math.sqrt(t * t + d * d)
    raw = network((x / c).to(dtype), time(250 * math.log(t)), LABEL, time(250 * math.log(s))).double()
    g = d * d / c**2 * x + t * d / c * raw
    return s / t * x + (1 - s / t) * g


def test_one_step(model):
    assert model.source.format.startswith("ctm")
    graph = SamplerGraph(resolve(model, SampleRequest(batch=2)))
    with torch.no_grad():
        got = graph(X, label=LABEL)
        expected = published_g(model.network, 80.0 * X.double(), 80.0, 0.002).clamp(-1, 1)
    assert (got - expected).abs().max() < 1e-5


def test_exact_steps(model):
    with torch.no_grad():
        wanted = SampleRequest(sigmas=(80.0, 5.0, 0.4), batch=2, sampler="exact")
        got = resolve(model, wanted).module()(X, label=LABEL)
        x = 80.0 * X.double()
        for t, s in ((80.0, 5.0), (5.0, 0.4), (0.4, 0.002)):
            x = published_g(model.network, x, t, s)
    assert (got - x.clamp(-1, 1)).abs().max() < 1e-4


def test_euler_steps_follow_its_diffusion_model(model):
    """g(x, t, t), EDM's picture of a network that is told to stay; then DDIM."""
    with torch.no_grad():
        got = resolve(model, SampleRequest(sigmas=(80.0, 5.0), batch=2, sampler="euler")).module()(X, label=LABEL)
        x = 80.0 * X.double()
        for t, s in ((80.0, 5.0), (5.0, 0.0)):
            c = math.sqrt(t * t + 0.25)
            raw = model.network((x / c).float(), time(250 * math.log(t)), LABEL, time(250 * math.log(t))).double()
            x = s / t * x + (1 - s / t) * (0.25 / c**2 * x + t * 0.5 / c * raw)
    assert (got - x.clamp(-1, 1)).abs().max() < 1e-4


def test_gamma_steps(model):
    """Algorithm 3 as sony/ctm runs it: jump to s, add noise of sqrt(t'^2 - s^2); the last jump ends at sigma_min."""
    levels, gamma = (80.0, 5.0, 0.4), 0.3
    z = torch.randn(2, *X.shape, generator=torch.Generator().manual_seed(3))
    wanted = SampleRequest(sigmas=levels, batch=2, sampler="gamma", gamma=gamma)
    exact = copy.deepcopy(model.network).double()
    with torch.no_grad():
        got = resolve(model, wanted).module()(X, renoise=z, label=LABEL)
        x = 80.0 * X.double()
        for index, t in enumerate(levels):
            following = (*levels, 0.002)[index + 1]
            s = math.sqrt(1 - gamma**2) * (following - 0.002) + 0.002
            x = published_g(exact, x, t, s, dtype=torch.float64)
            if index < 2:
                x = x + math.sqrt(following**2 - s**2) * z[index].double()
    assert (got - x.clamp(-1, 1)).abs().max() < 1e-4


@pytest.mark.parametrize("steps", [2, 3])
def test_gamma_zero_is_exact_and_takes_no_noise(steps, model):
    levels = (80.0, 5.0, 0.4)[:steps]
    gamma = resolve(model, SampleRequest(sigmas=levels, sampler="gamma", gamma=0.0))
    exact = resolve(model, SampleRequest(sigmas=levels, sampler="exact"))
    assert gamma.signature == exact.signature
    assert gamma.plan.evaluations == exact.plan.evaluations


def test_gamma_one_is_the_multistep_sampling_of_consistency_models(model):
    levels = (80.0, 5.0, 0.4)
    gamma = resolve(model, SampleRequest(sigmas=levels, sampler="gamma", gamma=1.0)).plan
    own = resolve(model, SampleRequest(sigmas=levels)).plan
    for ours, theirs in zip(gamma.evaluations, own.evaluations, strict=True):
        assert ours.c_noise_target == pytest.approx(250 * math.log(0.002))
        assert (ours.c_skip, ours.c_out, ours.noise_std) == pytest.approx(
            (theirs.c_skip, theirs.c_out, theirs.noise_std)
        )


def test_gamma_by_default(model):
    plan = resolve(model, SampleRequest(sampler="gamma")).plan
    assert plan.sigmas == pytest.approx((80.0, ((80 ** (1 / 7) + 0.002 ** (1 / 7)) / 2) ** 7))
    assert plan.evaluations[1].noise_std == pytest.approx(0.5 * plan.sigmas[1], rel=1e-2)


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (SampleRequest(sampler="gamma", gamma=1.5), "--gamma 1.5: must lie between 0 and 1"),
        (SampleRequest(sampler="exact", gamma=0.5), "--gamma 0.5: only --sampler gamma has one"),
        (SampleRequest(sampler="gamma", sigmas=(5.0, 80.0)), "levels must descend strictly"),
        (SampleRequest(sampler="gamma", task="inpaint"), "only generates"),
    ],
)
def test_gammas_that_mean_nothing(request_, said, model):
    with pytest.raises(UsageError, match=said):
        resolve(model, request_)


@pytest.mark.parametrize("sampler", ["exact", "euler"])
def test_jumps_are_captured_with_both_times(sampler, model):
    sampler = resolve(model, SampleRequest(sigmas=(80.0, 5.0, 0.4), batch=2, sampler=sampler))
    rewritten = apply_rewrites(capture(sampler), REWRITES)
    with torch.no_grad():
        got = rewritten.program.module()(noise=X, label=LABEL)
        assert (got - sampler.module()(X, label=LABEL)).abs().max() < 1e-5
    # The inputs are noise and label: nothing is added between, and both time branches are constants.
    assert [each.name for each in sampler.signature.inputs] == ["noise", "label"]
    assert not [name for name in rewritten.program.state_dict if "time_embed" in name]


def test_gamma_one_renoises_from_sigma_min(model):
    """gamma = 1: jump to sigma_min, then add sqrt(t^2 - sigma_min^2) z."""
    z = torch.randn(X.shape, generator=torch.Generator().manual_seed(3))
    graph = SamplerGraph(resolve(model, SampleRequest(sigmas=(80.0, 2.0), batch=2)))
    with torch.no_grad():
        got = graph(X, renoise=z[None], label=LABEL)
        x = published_g(model.network, 80.0 * X.double(), 80.0, 0.002).clamp(-1, 1)
        x = x + math.sqrt(2.0**2 - 0.002**2) * z.double()
        expected = published_g(model.network, x, 2.0, 0.002).clamp(-1, 1)
    assert (got - expected).abs().max() < 1e-4


def test_gamma_is_captured_with_noise_between(model):
    sampler = resolve(model, SampleRequest(sigmas=(80.0, 5.0), batch=2, sampler="gamma", gamma=0.7))
    rewritten = apply_rewrites(capture(sampler), REWRITES)
    z = torch.randn(1, *X.shape, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        got = rewritten.program.module()(noise=X, renoise=z, label=LABEL)
        assert (got - sampler.module()(X, renoise=z, label=LABEL)).abs().max() < 1e-5
    assert [each.name for each in sampler.signature.inputs] == ["noise", "renoise", "label"]
    assert not [name for name in rewritten.program.state_dict if "time_embed" in name]
