"""Scores of single layers against plain runs of the graph, and SSIM against scipy's filters."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.ndimage import gaussian_filter
from support.networks import model_around, random_weights, tiny_config
from torch import fx

from cmexport.errors import CheckpointError
from cmexport.graph.capture import capture
from cmexport.graph.rewrites import REWRITES
from cmexport.graph.rewriting import apply_rewrites
from cmexport.graph.tracing import to_module
from cmexport.model import SampleRequest
from cmexport.networks.adm_unet import AdmUnet
from cmexport.quantize.calibration import CalibrationOptions, calibrate
from cmexport.quantize.codes import CONVOLUTIONS, INTEGER_PRODUCTS, RoundingOptions, encode
from cmexport.quantize.layer_scores import KINDS, SEED, KindScore, LayerScorer, decibels, structural_similarity
from cmexport.quantize.layers import find_layers
from cmexport.quantize.simulation import Simulation, psnr_db
from cmexport.sampling.methods import resolve

PICTURES = 3


@pytest.fixture(scope="module")
def graph():
    """Two steps, so that every layer has two nodes."""
    model = model_around(random_weights(AdmUnet(tiny_config()), 3), 8, 3)
    request = SampleRequest(sigmas=(80.0, 1.4))
    return apply_rewrites(capture(resolve(model, request)), list(REWRITES))


@pytest.fixture(scope="module")
def encoded(graph):
    """A function: codes of all layers under a scheme."""
    layers = find_layers(graph)
    seen = calibrate(graph, layers, CalibrationOptions(pictures=16, gram_pictures=0))

    def codes(scheme=INTEGER_PRODUCTS):
        return [encode(x, seen.layers[x.key], scheme, RoundingOptions()) for x in layers]

    return codes


@pytest.fixture(scope="module")
def scorer(graph):
    return LayerScorer(graph, PICTURES)


class PlainRounding(fx.Interpreter):
    """An oracle: torch's own fake quantization at the named convolutions, and another weight."""

    def __init__(self, module, codes, weights, inputs):
        super().__init__(module)
        self.codes, self.weights, self.inputs = codes, weights, inputs

    def run_node(self, n):
        if n.name not in self.codes.layer.nodes:
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        x, weight, *rest = args
        if self.inputs:
            zero = self.codes.zero_point.to(torch.int32)
            x = torch.fake_quantize_per_channel_affine(x, self.codes.step, zero, 1, 0, 255)
        if self.weights:
            steps = self.codes.weight_step.reshape(-1, 1, 1, 1) / self.codes.step.reshape(1, -1, 1, 1)
            weight = self.codes.codes.float() * steps
        return n.target(x, weight, *rest, **kwargs)


def drawn(graph, codes, kind):
    module = to_module(graph.program)
    names = [n.name for n in module.graph.nodes if n.op == "placeholder"]
    pictures = []
    for seed in range(SEED, SEED + PICTURES):
        inputs = graph.examples(seed)
        run = PlainRounding(module, codes, kind != "activations", kind != "weights")
        with torch.no_grad():
            pictures.append(run.run(*(inputs[n] for n in names), enable_io_processing=False)[0])
    return torch.cat(pictures)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_each_kind_rounds_what_it_says_and_nothing_else(graph, encoded, scorer, kind):
    all_codes = encoded()
    exact = Simulation(graph).pictures(Simulation(graph).inputs(range(SEED, SEED + PICTURES)))
    for codes in all_codes[:: max(1, len(all_codes) // 4)]:
        assert len(codes.layer.nodes) == 2
        found, expected = scorer.pictures(codes, kind), drawn(graph, codes, kind)
        apart, effect = float((found - expected).norm()), float((expected - exact).norm())
        assert effect > 1e-3
        # float32's last digits (0.001 of the effect at most), and with both rounded a value in the second step that
        # they push over to the next code (0.044).
        assert apart < (0.1 if kind == "both" else 0.005) * effect, codes.layer.key


def test_a_layers_scores_do_not_depend_on_what_was_scored_before(graph, encoded):
    codes = encoded()
    order = [5, 0, 9, 2, 2, len(codes) - 1, 1]
    scorer = LayerScorer(graph, PICTURES)
    simulation = Simulation(graph)
    inputs = simulation.inputs(range(SEED, SEED + PICTURES))
    exact = simulation.pictures(inputs)
    for index in order:
        whole = simulation.pictures(inputs, [codes[index]])
        assert torch.equal(scorer.pictures(codes[index], "both"), whole)
        found = scorer.score(codes[index])
        assert found.both.psnr_db == pytest.approx(float(psnr_db(whole, exact).mean()), abs=1e-3)
        assert found.both.ssim == pytest.approx(float(structural_similarity(whole, exact).mean()))
        assert found.both.squared_errors == pytest.approx(((whole - exact) ** 2).flatten(1).mean(1).tolist(), rel=1e-4)


def test_rounded_outputs_belong_to_the_activations(graph, encoded):
    codes = encoded(CONVOLUTIONS)[2]
    assert codes.output is not None
    scorer = LayerScorer(graph, PICTURES)
    bare = replace(codes, output=None)
    assert torch.equal(scorer.pictures(codes, "weights"), scorer.pictures(bare, "weights"))
    assert not torch.equal(scorer.pictures(codes, "activations"), scorer.pictures(bare, "activations"))


def test_a_coarser_input_costs_only_where_the_input_is_rounded(encoded, scorer):
    codes = encoded()[3]
    fine = scorer.score(codes)
    # The weight that the codes stand for stays what it was.
    coarse = scorer.score(
        replace(
            codes,
            step=16 * codes.step,
            zero_point=(codes.zero_point / 16).round(),
            weight_step=16 * codes.weight_step,
        )
    )
    assert coarse.weights == fine.weights
    # Steps 16 times as large: 24 dB.
    assert 15 < fine.activations.psnr_db - coarse.activations.psnr_db < 33
    assert coarse.both.psnr_db < fine.both.psnr_db - 5
    assert coarse.both.ssim < fine.both.ssim


def test_pictures_that_are_not_numbers_are_a_sentence(graph, encoded, scorer):
    codes = encoded()[4]
    broken = replace(codes, weight_step=torch.full_like(codes.weight_step, float("nan")))
    with pytest.raises(CheckpointError, match=codes.layer.key) as refused:
        scorer.score(broken)
    assert len(str(refused.value).splitlines()) == 1
    module = to_module(graph.program)
    name = next(n for n in module.graph.nodes if n.op == "get_attr" and "out" in str(n.target)).target
    weight = module.get_parameter(name) if name in dict(module.named_parameters()) else module.get_buffer(name)
    before = weight.detach().clone()
    try:
        weight.data.fill_(float("nan"))
        with pytest.raises(CheckpointError, match="without any rounding"):
            LayerScorer(graph, 1)
    finally:
        weight.data.copy_(before)


def oracle_ssim(x, y):
    """scikit-image's structural_similarity(gaussian_weights=True, use_sample_covariance=False), range 2, by scipy."""

    def mean(v):
        return gaussian_filter(v, 1.5, truncate=3.5)[5:-5, 5:-5]

    values = []
    for a, b in zip(x.reshape(-1, *x.shape[-2:]), y.reshape(-1, *y.shape[-2:]), strict=True):
        ma, mb = mean(a), mean(b)
        va, vb, cov = mean(a * a) - ma**2, mean(b * b) - mb**2, mean(a * b) - ma * mb
        c1, c2 = 0.0004, 0.0036
        values.append(((2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))).mean())
    return np.array(values).reshape(x.shape[:2]).mean(axis=1)


@pytest.mark.parametrize("noise", [0.001, 0.1, 1.0])
def test_ssim_is_that_of_scipys_filters(noise):
    generator = np.random.default_rng(0)
    x = np.stack([gaussian_filter(generator.normal(size=(3, 32, 24)), (0, 2, 2)) * 3 for _ in range(4)])
    y = x + noise * generator.normal(size=x.shape)
    found = structural_similarity(torch.from_numpy(x), torch.from_numpy(y))
    assert found.dtype == torch.float64
    assert found.numpy() == pytest.approx(oracle_ssim(x, y), abs=1e-10)


def test_ssim_tells_structure_from_noise():
    """The same squared error: a brighter picture keeps its structure, noise destroys it (Wang et al., figure 2)."""
    x = torch.linspace(-0.5, 0.5, 32).repeat(1, 1, 32, 1).sin()
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    brighter, noisy = x + 0.1, x + 0.1 * noise / noise.square().mean().sqrt()
    assert float(structural_similarity(x, brighter)) > float(structural_similarity(x, noisy)) + 0.1


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 1000), st.floats(0, 2), st.booleans())
def test_ssim_is_symmetric_bounded_and_1_for_equals(height, width, seed, noise, flat):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(2, 3, height, width, generator=generator) * 2 - 1
    x = x.mean() + 0 * x if flat else x
    y = x + noise * torch.randn(x.shape, generator=generator)
    found = structural_similarity(x, y)
    assert found.shape == (2,)
    assert bool(((found >= -1) & (found <= 1)).all())
    assert torch.allclose(found, structural_similarity(y, x), atol=1e-12)
    assert torch.allclose(structural_similarity(x, x), torch.ones(2, dtype=torch.float64), atol=1e-9)


@settings(deadline=None)
@given(st.lists(st.floats(0, 4), min_size=1, max_size=8))
def test_decibels_are_those_of_the_pictures(errors):
    pictures = torch.tensor(errors, dtype=torch.float64).sqrt()[:, None, None, None].expand(-1, 3, 4, 4)
    score = KindScore(squared_errors=tuple(errors), ssim=1.0)
    expected = float(psnr_db(pictures, torch.zeros_like(pictures)).mean())
    assert score.psnr_db == pytest.approx(expected, abs=1e-6)
    assert score.mean_squared_error == pytest.approx(float(np.mean(errors)))
    assert decibels(4.0) == 0.0


@pytest.mark.parametrize(
    "fields",
    [
        {"squared_errors": (), "ssim": 1.0},
        {"squared_errors": (-1e-9,), "ssim": 1.0},
        {"squared_errors": (float("nan"),), "ssim": 1.0},
        {"squared_errors": (float("inf"),), "ssim": 1.0},
        {"squared_errors": (0.1,), "ssim": float("nan")},
        {"squared_errors": (0.1,), "ssim": 1.5},
        {"squared_errors": (0.1,)},
    ],
)
def test_records_that_can_not_be_are_refused(fields):
    with pytest.raises(ValidationError):
        KindScore(**fields)
