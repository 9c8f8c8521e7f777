"""Smallest and largest value of every tensor of an ONNX model, on the exact input law."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
import torch
from onnx import numpy_helper

from cmexport.errors import CheckpointError
from cmexport.graph.capture import CapturedGraph
from cmexport.quantize.calibration import SEED, Extremes
from cmexport.targets.base import TellStep

Range = tuple[float, float]


def observed_ranges(
    model: onnx.ModelProto, captured: CapturedGraph, pictures: int, progress: TellStep, seed: int = SEED
) -> Mapping[str, Range]:
    """What to expect of every float activation, by the tensor's name; zero is always inside.

    Extrapolated from `pictures` drawn ones as inputs of single layers are: see `Extremes.expected`.

    Args:
        model: the float model.
        captured: the graph it was translated from.
        pictures: how many to draw.
        progress: told how far it is.
        seed: of the first picture.

    Raises:
        CheckpointError: a tensor is not finite.
    """
    from onnxruntime.quantization.calibrate import MinMaxCalibrater

    with TemporaryDirectory(prefix="cmexport-") as folder:
        path = Path(folder) / "float.onnx"
        onnx.save(model, path)
        observer = MinMaxCalibrater(path, augmented_model_path=str(path.with_name("observed.onnx")))
        observer.augment_graph()
        observer.create_inference_session()
        session = observer.infer_session
    observed = {o.name.removesuffix("_ReduceMin") for o in session.get_outputs() if o.name.endswith("_ReduceMin")}
    # In the graph's order: of what is not finite, the first is named.
    order = (*(i.name for i in model.graph.input), *(name for n in model.graph.node for name in n.output))
    names = [name for name in order if name in observed]
    wanted = [f"{name}_{which}" for which in ("ReduceMax", "ReduceMin") for name in names]
    high, low = Extremes.none(len(names)), Extremes.none(len(names))
    for picture in range(pictures):
        if picture % 64 == 0:
            progress(f"observe {picture}/{pictures}")
        inputs = captured.examples(seed + picture)
        found = torch.tensor([float(v.item()) for v in session.run(wanted, {k: v.numpy() for k, v in inputs.items()})])
        if not bool(torch.isfinite(found).all()):
            name = names[int(torch.isfinite(found).logical_not().nonzero()[0]) % len(names)]
            raise CheckpointError(f"calibration: {name} is NaN or infinite; is the checkpoint whole?")
        high.add(found[None, : len(names)])
        low.add(-found[None, len(names) :])
    found_limits = zip(names, low.expected().tolist(), high.expected().tolist(), strict=True)
    bounds = _bounds(model)
    everything = (-math.inf, math.inf)
    return {
        name: (max(-lowest, bounds.get(name, everything)[0]), min(highest, bounds.get(name, everything)[1]))
        for name, lowest, highest in found_limits
    }


def _bounds(model: onnx.ModelProto) -> dict[str, Range]:
    """What no picture leaves, however many are drawn, by the tensor's name."""
    stored = {i.name: i for i in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        if node.op_type in ("Sigmoid", "Softmax"):
            found[node.output[0]] = (0.0, 1.0)
        if node.op_type == "Clip" and len(node.input) == 3:
            # The tool leaves the Clip out, since codes end where it would cut.
            low, high = (float(numpy_helper.to_array(stored[name])) for name in node.input[1:])
            found[node.output[0]] = (min(low, 0.0), max(high, 0.0))
    return found
