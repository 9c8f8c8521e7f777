"""The packaged model: against PyTorch, and as a second oracle for the Core ML executor."""

from __future__ import annotations

import numpy as np
import pytest

from cmexport.checkpoints import load_checkpoint
from cmexport.demo import demo_checkpoint
from cmexport.graph.capture import capture
from cmexport.graph.rewrites import REWRITES
from cmexport.graph.rewriting import apply_rewrites
from cmexport.model import SampleRequest
from cmexport.parity.inputs import draw_inputs
from cmexport.parity.metrics import compare
from cmexport.sampling.methods import resolve
from cmexport.sampling.reference import TorchRunner
from cmexport.targets.coreai.target import CoreAiTarget
from cmexport.targets.coreml.target import CoreMlTarget
from cmexport.targets.info import LoweringOptions

pytest.importorskip("coreai_torch", reason="coreai-torch is not installed", exc_type=ImportError)

SEEDS = 4


def _draw(target, captured, precision, folder, inputs, count):
    lowered = target.lower_one(captured, LoweringOptions(precision=precision), folder, lambda _: None)
    with target.rungs(folder, lowered.files, lowered.session)[-1].open() as run:
        return np.concatenate([run(inputs[i])["image"] for i in range(count)])


@pytest.fixture(scope="module")
def demo():
    model, request = load_checkpoint(demo_checkpoint()), SampleRequest()
    captured = apply_rewrites(capture(resolve(model, request)), REWRITES)
    inputs = draw_inputs(captured.signature, SEEDS)
    with TorchRunner(resolve(model, request)) as run:
        reference = np.concatenate([run(inputs[i])["image"] for i in range(SEEDS)])
    return captured, inputs, reference


@pytest.fixture(scope="module")
def pictures(demo, tmp_path_factory):
    captured, inputs, _ = demo
    return _draw(CoreAiTarget(), captured, "fp32", tmp_path_factory.mktemp("fp32"), inputs, SEEDS)


def test_float32(demo, pictures):
    mean = compare(demo[2], pictures).mean_db
    assert mean is not None
    assert mean >= 130.0


def test_half_precision(demo, tmp_path):
    captured, inputs, reference = demo
    found = _draw(CoreAiTarget(), captured, "fp16", tmp_path, inputs, 2)
    mean = compare(reference[:2], found).mean_db
    assert mean is not None
    # Measured over 64 seeds: 136.4 in float32, 74.3 in half.
    assert mean >= 68.0


def test_core_ml_packages_draw_the_same_in_our_executor_as_apples_runtime_draws(demo, pictures, tmp_path):
    pytest.importorskip("coremltools", reason="coremltools is not installed")
    captured, inputs, _ = demo
    executed = _draw(CoreMlTarget(), captured, "fp32", tmp_path, inputs, SEEDS)
    assert float(np.abs(executed - pictures).max()) <= 1e-5
