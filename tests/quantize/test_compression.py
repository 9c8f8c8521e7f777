"""Precisions on the trained demo model: bits kept to, pictures kept, the given graph left alone."""

from __future__ import annotations

import pytest
import torch
from support.latent_pipelines import tiny_pipeline

from cmexport.checkpoints import load_checkpoint
from cmexport.graph.capture import capture
from cmexport.graph.tracing import to_module
from cmexport.model import SampleRequest
from cmexport.quantize import compression, planning
from cmexport.quantize.compression import RECIPES, compress
from cmexport.quantize.sensitivity import weight_sensitivity
from cmexport.quantize.weights import find_weights
from cmexport.sampling.methods import resolve


@pytest.fixture(scope="module")
def sensitivities():
    """`weight_sensitivity`, once for a graph: 4 s on the demo's, and it does not depend on the precision asked for."""
    known = {}

    def once(captured, weights, samples, dtype):
        key = (id(captured), samples, dtype)
        if key not in known:
            # The graph is kept with it, so that its id is not given to another one.
            known[key] = captured, weight_sensitivity(captured, weights, samples, dtype=dtype)
        return known[key][1]

    return once


@pytest.fixture(scope="module")
def rounded():
    """`rounded`, once for a weight and a format: all precisions choose among the same palettes."""
    known, ordinary = {}, planning.rounded

    def once(weight, importance, format):
        key = id(importance), format
        if key not in known or not torch.equal(known[key][0], weight):
            known[key] = weight, importance, ordinary(weight, importance, format)
        return known[key][2].clone()

    return once


@pytest.fixture(autouse=True)
def _few_samples(monkeypatch, sensitivities, rounded):
    for module in (compression, planning):
        monkeypatch.setattr(module, "rounded", rounded)
    monkeypatch.setattr(compression, "SAMPLES", 8)
    monkeypatch.setattr(compression, "_TRIAL_PICTURES", 6)
    monkeypatch.setattr(compression, "weight_sensitivity", sensitivities)


@pytest.mark.parametrize(("precision", "least_db"), [("w8", 57.0), ("w6", 48.0), ("w4", 38.0)])
def test_weights_keep_to_their_bits_and_the_picture(demo, psnr, precision, least_db):
    before = [w.value.clone() for w in find_weights(to_module(demo.program))]
    found = compress(demo, precision)
    assert found.weights.mean_bits <= RECIPES[precision].mean_bits
    kept = psnr(found.captured)
    assert kept >= least_db
    assert abs(found.weights.predicted_db - kept) < 3.0
    after = find_weights(to_module(demo.program))
    assert all(torch.equal(old, new.value) for old, new in zip(before, after, strict=True))
    assert sum(found.facts()["weights"].values()) == len(before)


def test_formats_of_a_huge_model_are_chosen_by_some_of_its_numbers(demo, psnr, monkeypatch):
    whole = compress(demo, "w6")
    monkeypatch.setattr(compression, "HUGE_MODEL", 1000)
    monkeypatch.setattr(compression, "_LOOKED_AT", 2**13)
    some = compress(demo, "w6")
    assert some.facts()["predicted_from"] == "8192 elements of each weight"
    assert "predicted_from" not in whole.facts()
    assert some.weights.mean_bits <= 6.1
    assert some.facts()["predicted_db"] == pytest.approx(whole.facts()["predicted_db"], abs=1.0)
    assert psnr(some.captured) > psnr(whole.captured) - 1.0


def test_a_budget_is_met_with_fewer_bits_than_a_tighter_one(demo, psnr):
    loose, tight = compress(demo, "mixed", 42.0), compress(demo, "mixed", 50.0)
    assert psnr(loose.captured) >= 41.5
    assert psnr(tight.captured) >= 49.5
    assert loose.weights.mean_bits < tight.weights.mean_bits < 7.0
    assert loose.facts()["budget_db"] == 42.0


def test_a_budget_of_prompts_is_tried_on_every_prompt_and_asks_for_their_spread(monkeypatch):
    """Words are easy or hard: the first of a list say little of all of it."""
    model = load_checkpoint(tiny_pipeline())
    sampler = resolve(model, SampleRequest(sigmas=(model.schedule.sigma_of(model.schedule.timesteps(1)[0]),)))
    seen, asked = [], []
    choose = compression.choose

    def pictures(captured, values, inputs):
        if not values:
            seen.extend(given["tokens"].numpy().tobytes() for given in inputs)
            return torch.zeros(len(inputs), 3, 8, 8)
        # Of half of the prompts 46 dB, of the others 54.
        errors = torch.tensor([2 * 10 ** (-db / 20) for db in (46.0, 54.0)])
        return errors.repeat(len(inputs) // 2)[:, None, None, None].expand(-1, 3, 8, 8)

    def noted(options, elements, bits, least_db=float("inf")):
        asked.append(least_db)
        return choose(options, elements, bits, least_db)

    monkeypatch.setattr(compression, "_pictures", pictures)
    monkeypatch.setattr(compression, "choose", noted)
    options = [
        (planning.Candidate(RECIPES["w8"].formats[0], 8, 1e-3), planning.Candidate(RECIPES["w8"].formats[-1], 16, 0.0))
    ]
    compression._smallest(capture(sampler), options, 1, 49.5, lambda plan: {"weight": torch.zeros(1)})
    tokens = next(i.law for i in sampler.signature.inputs if i.name == "tokens")
    assert len(set(seen)) == len(tokens.sentences) == 64
    # 50 dB would do for 49.5 and 0.3; two standard errors are 1.0, so more than 49.5 is asked for next.
    assert asked[1] == pytest.approx(49.5 + 2 * 4.0 * (64 / 63) ** 0.5 / 8 - 0.5 + 0.05, abs=0.01)
