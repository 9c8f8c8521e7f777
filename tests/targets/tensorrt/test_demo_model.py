"""The packaged model as engines: what the documentation promises of it."""

from __future__ import annotations

import pytest
from support.networks import demo_graph

from cmexport.parity.gates import gate_for
from cmexport.parity.inputs import draw_inputs
from cmexport.parity.metrics import compare
from cmexport.quantize.codes import RoundingOptions
from cmexport.quantize.precision_plan import PrecisionPlan
from cmexport.sampling.methods import resolve
from cmexport.sampling.reference import TorchRunner
from cmexport.targets.tensorrt.info import TensorRtOptions
from cmexport.targets.tensorrt.target import TensorRtTarget


@pytest.fixture(scope="module")
def demo():
    model, graph = demo_graph()
    inputs = draw_inputs(graph.signature, 1)[0]
    with TorchRunner(resolve(model)) as run:
        return graph, inputs, run(inputs)["image"]


@pytest.fixture
def build(rtx, demo, tmp_path):
    """A function: an engine's facts, and the PSNR of the emulated rung, for a precision."""
    graph, inputs, expected = demo
    target = TensorRtTarget()

    def run(precision):
        # Rounding to the nearest, without correction: a few dB less, in a third of the time.
        plan = PrecisionPlan(rounding=RoundingOptions(least_squares=False), bias_correction=False)
        options = TensorRtOptions(precision, trt="rtx", sm=(86, 120), plan=plan if precision == "int8" else None)
        lowered = target.lower_one(graph, options, tmp_path, lambda _: None)
        with target.rungs(tmp_path, lowered.files, lowered.session)[0].open() as runner:
            found = runner(inputs)["image"]
        return lowered.session["engines"][0], compare(expected, found).mean_db

    return run


@pytest.mark.parametrize(("precision", "share"), [("fp16", 0.505), ("bf16", 0.505), ("int8", 0.295)])
def test_weights_shrink_as_the_precision_says_and_pictures_keep_the_gate(build, precision, share):
    facts, mean_db = build(precision)
    # 27.06 MB in float32. int8 leaves 1x1 convolutions and those at the picture in float16, as its plan has it.
    assert facts["weights_bytes"] <= share * 27_059_588
    assert mean_db > gate_for(precision)
    assert set(facts["layers_by_precision"]) <= {precision, "fp16", "fp32"}
    if precision == "bf16":
        assert all("avg_pool2d" in line for line in facts["float32_fallbacks"])
    else:
        assert facts["float32_fallbacks"] == []
