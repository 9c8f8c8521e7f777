"""The proof that a graph was read rightly: the file, run by ONNX Runtime, and the network rebuilt from it agree."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch

from cmexport.checkpoints.onnx_adm import OnnxDenoiser
from cmexport.errors import CheckpointError, first_line
from cmexport.model import ConsistencyModel
from cmexport.runner import Array
from cmexport.sampling.denoiser import denoise

TOLERANCE = 1e-4
"""Largest difference of a pixel on [-1, 1]; float32 against float32 leaves about a tenth of it."""


def require_agreement(denoiser: OnnxDenoiser, model: ConsistencyModel) -> ConsistencyModel:
    """Run the file and the network on a few noisy pictures, and return the model if they agree.

    Three noise levels (the largest, where pictures are made of nothing, and two where a wrong time scale shows) with
    as many values of the condition. Nothing was run before this; `onnx_file` and `onnx_adm` let no other operator
    through than this network has.

    Raises:
        CheckpointError: they differ, or ONNX Runtime refuses the file.
    """
    import onnxruntime as ort

    path = denoiser.file.facts.path
    options = ort.SessionOptions()
    options.log_severity_level = 3
    # Run three times: optimizing takes longer.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = ort.InferenceSession(
            denoiser.file.model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        found = [_difference(session, denoiser, model, sigma, share) for sigma, share in _probes(model)]
    except Exception as error:  # onnxruntime raises a family of unrelated classes
        raise CheckpointError(f"{path}: ONNX Runtime can't run this file: {first_line(error)[:200]}") from error
    # NaN is the worst of all.
    worst = max(found, key=lambda difference: math.inf if math.isnan(difference) else difference)
    if not worst <= TOLERANCE:
        raise CheckpointError(
            f"{path}: what was read is not what the file computes: its pictures, run by ONNX Runtime, differ by "
            f"{worst:.3g} (at most {TOLERANCE:g})\n"
            "--set num_head_channels, qkv_order, precond or c_noise may be wrong, "
            "or its weights are under other names"
        )
    return model


def _probes(model: ConsistencyModel) -> Iterator[tuple[float, float]]:
    """Noise levels, each with a place in the range of the condition."""
    yield model.noise.sigma_max, 1.0
    yield 2.0, 0.0
    yield 0.3, 0.4


def _difference(session: object, denoiser: OnnxDenoiser, model: ConsistencyModel, sigma: float, share: float) -> float:
    inputs = denoiser.file.inputs
    pictures = inputs[denoiser.noisy][0] or 1
    shape = (pictures, model.channels, model.space.height, model.space.width)
    x = sigma * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    fed: dict[str, Array] = {denoiser.noisy: x.numpy(), denoiser.sigma: np.full(pictures, sigma, dtype=np.float32)}
    conditions = {}
    if denoiser.label is not None:
        (condition,) = model.conditions
        low, high = condition.input.drawn.limits or (0.0, 1.0)
        chosen = low + share * (high - low)
        if condition.input.count is not None:
            value = torch.full((pictures,), int(chosen), dtype=torch.int64)
        else:
            value = torch.full((pictures,), chosen)
        with torch.no_grad():
            conditions[condition.name] = condition.of(value)
        # What the file takes is what our network takes: the embedding's input.
        fed[denoiser.label] = conditions[condition.name].numpy()
    theirs = session.run([denoiser.output], fed)[0]  # type: ignore[attr-defined]
    ours = denoise(model, x, sigma, **conditions)
    ours = ours.clamp(-1, 1) if model.clamp else ours
    return float(np.abs(theirs - ours.numpy()).max())
