from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper

from cmexport.errors import CheckpointError, UsageError
from cmexport.quantize.precision_plan import FLOAT, PrecisionPlan
from cmexport.targets.tensorrt.info import TensorRtOptions
from cmexport.targets.tensorrt.lower import check


@pytest.fixture(scope="module")
def written(shared_export):
    return shared_export("int8")


def test_pictures_are_those_of_the_simulation(written, psnr):
    mean, worst = written.lowered.precision_plan["simulated_db"]
    for rung in written.rungs:
        with rung.open() as run:
            found = [psnr(written.reference(i), run(i)["image"]) for i in map(written.inputs, range(8))]
        # The simulation has pictures of its own; 16-bit arithmetic between layers comes on top.
        assert worst - 3 < np.mean(found) < mean + 3, rung.name


def test_the_file_has_symmetric_pairs_and_biases_in_floating_point(written):
    graph = written.proto.graph
    stored = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    pairs = [n for n in graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    activations = [n for n in pairs if len(n.input) > 2]
    assert len(activations) == 2 * len(written.lowered.precision_plan["int8"])
    for node in pairs:
        scale = stored[node.input[1]]
        assert scale.dtype == np.float16
        assert (scale >= 2.0**-14).all()
    for node in activations:
        assert stored[node.input[2]].dtype == np.int8
        assert not stored[node.input[2]].any()
        assert stored[node.input[1]].shape == ()
    for node in graph.node:
        if node.op_type == "Conv" and len(node.input) > 2:
            assert stored[node.input[2]].dtype == np.float16, "biases stay in floating point"


def test_a_plan_keeps_layers_in_floating_point(written, export):
    first, *others = written.lowered.precision_plan["int8"]
    planned = export("int8", plan=PrecisionPlan({first: FLOAT}))
    assert planned.lowered.precision_plan["int8"] == others
    assert first in planned.lowered.precision_plan["left_in_float"]
    kinds = [n.op_type for n in planned.proto.graph.node]
    assert kinds.count("QuantizeLinear") == len(others)


def test_unknown_layers_and_other_precisions_are_refused(export):
    with pytest.raises(CheckpointError, match=r"no layer input_blocks\.9"):
        export("int8", plan=PrecisionPlan({"input_blocks.9": FLOAT}))
    with pytest.raises(UsageError, match=r"--plan: .* this is fp16"):
        check(TensorRtOptions(precision="fp16", plan=PrecisionPlan()))
