"""`--budget-db` on a model that takes prompts and multiplies what rounds its first step: kept, measured in the file."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from support.latent_forms import Form

from cmexport.graph.capture import capture
from cmexport.graph.rewrites import REWRITES
from cmexport.graph.rewriting import apply_rewrites
from cmexport.onnxfile.runner import OnnxRuntimeRunner
from cmexport.quantize import int8
from cmexport.quantize.calibration import CalibrationOptions
from cmexport.quantize.codes import RoundingOptions
from cmexport.quantize.precision_plan import PrecisionPlan
from cmexport.runner import picture_of
from cmexport.targets.onnx import budget
from cmexport.targets.onnx.info import OnnxOptions
from cmexport.targets.onnx.target import OnnxTarget

UNSEEN = range(500, 532)
PLAN = PrecisionPlan(rounding=RoundingOptions(least_squares=False), bias_correction=False)


@pytest.fixture(scope="module")
def world():
    """A sampler, its rewritten graph, and what PyTorch draws of inputs that no calibration has seen."""
    sampler = Form().sampler()
    captured = apply_rewrites(capture(sampler), [*REWRITES, *OnnxTarget().rewrites_for(OnnxOptions(precision="int8"))])
    inputs = [sampler.signature.draw(i) for i in UNSEEN]
    with torch.no_grad():
        module = sampler.module()
        drawn = [module(**{n: torch.from_numpy(a) for n, a in each.items()}).numpy() for each in inputs]
    return captured, inputs, np.concatenate(drawn).astype(np.float64)


def test_the_fewest_layers_in_float_keep_the_quality(world, tmp_path, monkeypatch):
    captured, inputs, expected = world
    monkeypatch.setattr(int8, "CalibrationOptions", partial(CalibrationOptions, pictures=24, gram_pictures=1))
    monkeypatch.setattr(budget, "STEPS", (0, 2, 16))
    # How long files take is measured elsewhere, and is nothing here: 0.3 ms.
    monkeypatch.setattr(budget, "latency_ratios", lambda files: tuple(1.0 for _ in files))

    def measured(options, name):
        lowered = OnnxTarget().lower_one(captured, options, tmp_path, lambda _: None, name)
        with OnnxRuntimeRunner(tmp_path / lowered.files[0]) as run:
            drawn = np.concatenate([picture_of(run(each)) for each in inputs])
        mse = ((drawn - expected) ** 2).mean((1, 2, 3))
        return float((10 * np.log10(4 / mse)).mean()), lowered.precision_plan

    without, plain = measured(OnnxOptions(precision="int8", plan=PLAN), "plain")
    wanted = without + 3
    reached, plan = measured(OnnxOptions(precision="int8", plan=PLAN, budget_db=wanted), "budget")
    assert plan["budget_met"]
    assert reached >= wanted - 0.5
    assert 0 < plan["chosen_in_float"] == len(plain["int8"]) - len(plan["int8"])
    assert plan["int8"]
    # One layer less in float was tried, and does not keep it; or none was needed.
    tried = {point["in_float"]: point["db"] for point in plan["frontier"]}
    assert tried[plan["chosen_in_float"]] >= wanted + budget.UNSEEN_DB
    assert tried[plan["chosen_in_float"] - 1] < tried[plan["chosen_in_float"]]
