"""Score the layers that have no scores yet, one after the other or over processes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch

from cmexport.checkpoints import load_checkpoint
from cmexport.errors import BackendError, CheckpointError
from cmexport.graph.capture import CapturedGraph, capture
from cmexport.graph.rewrites import REWRITES
from cmexport.graph.rewriting import apply_rewrites
from cmexport.layer_study.state import ScoreFile
from cmexport.model import LARGE_MODEL, ConsistencyModel, SampleRequest
from cmexport.progress import Progress
from cmexport.quantize.calibration import CalibrationOptions
from cmexport.quantize.codes import LayerCodes, Scheme, encode
from cmexport.quantize.int8 import LARGE_MODEL_CALIBRATION, prepare
from cmexport.quantize.layer_scores import LayerScorer, LayerScores
from cmexport.quantize.layers import Layer
from cmexport.quantize.precision_plan import FLOAT, INT8, PrecisionPlan
from cmexport.sampling.methods import resolve


@dataclass(frozen=True)
class Setup:
    """What a worker needs to draw pictures, as plain data: it loads the checkpoint itself.

    Attributes:
        checkpoint: as `load_checkpoint` takes it.
        overrides: `--set` fields.
        trust: see `load_checkpoint`.
        request: what the graph is to do.
        pictures: behind each score.
        jobs: processes; -1: one per core.
        weights: see `load_checkpoint`.
    """

    checkpoint: str
    overrides: tuple[tuple[str, str], ...]
    trust: bool
    request: SampleRequest
    pictures: int
    jobs: int = 1
    weights: str | None = None


@dataclass(frozen=True)
class Rounding:
    """How layers are rounded for scoring.

    Attributes:
        plan: its rounding options; its precisions play no part.
        scheme: what the runtime's 8-bit kernels can hold.
        calibration_pictures: None leaves it to the model's size.
    """

    plan: PrecisionPlan
    scheme: Scheme
    calibration_pictures: int | None = None


def captured_graph(model: ConsistencyModel, request: SampleRequest, progress: Progress | None = None) -> CapturedGraph:
    """Capture the graph that every target starts from, rewritten, without any target's own forms."""
    step = (progress or Progress()).step
    step("capture")
    return apply_rewrites(capture(resolve(model, request)), list(REWRITES), step)


def score_layers(
    setup: Setup,
    captured: CapturedGraph,
    layers: Sequence[Layer],
    rounding: Rounding,
    kept: ScoreFile,
    progress: Progress | None = None,
) -> Mapping[str, LayerScores]:
    """Scores of all `layers` by key; what `kept` does not hold yet is computed and noted, layer by layer.

    Calibration sees all layers without scores in one go.

    Raises:
        CheckpointError: a layer's numbers or a picture are not finite.
        BackendError: several processes are wanted and joblib is missing.
        OutputError: the scores can't be kept.
    """
    tell = progress or Progress()
    todo = [layer for layer in layers if layer.key not in kept.scores]
    if todo:
        # Before the minutes that calibration takes.
        if setup.jobs != 1:
            _joblib()
        scored = _scored(setup, captured, _encoded(captured, layers, todo, rounding, tell))
        for done, (key, scores) in enumerate(scored, start=len(layers) - len(todo) + 1):
            kept.note(key, scores)
            tell.step("score layers")
            tell.pictures("layers", done, len(layers))
    return {layer.key: kept.scores[layer.key] for layer in layers}


def _encoded(
    captured: CapturedGraph, layers: Sequence[Layer], todo: Sequence[Layer], rounding: Rounding, tell: Progress
) -> Iterator[LayerCodes]:
    """Codes of the layers in `todo`, one at a time."""
    wanted = {layer.key for layer in todo}
    plan = replace(rounding.plan, layers={x.key: INT8 if x.key in wanted else FLOAT for x in layers})
    options = _calibration_options(layers, rounding.calibration_pictures)
    prepared = prepare(captured, plan, tell.step, options=options)
    tell.step("score layers")
    for layer in todo:
        yield encode(layer, prepared.calibration.layers[layer.key], rounding.scheme, prepared.plan.rounding)


def _calibration_options(layers: Sequence[Layer], pictures: int | None) -> CalibrationOptions | None:
    """Choose as `prepare` would, but for the number of pictures."""
    if pictures is None:
        return None
    large = sum(layer.weight.numel() for layer in layers) > LARGE_MODEL
    return replace(LARGE_MODEL_CALIBRATION if large else CalibrationOptions(), pictures=pictures)


def _scored(setup: Setup, captured: CapturedGraph, codes: Iterator[LayerCodes]) -> Iterator[tuple[str, LayerScores]]:
    if setup.jobs == 1:
        scorer = None
        for one in codes:
            # After calibration, which names the layer where numbers stop being finite.
            scorer = scorer or LayerScorer(captured, setup.pictures)
            yield one.layer.key, scorer.score(one)
        return
    joblib = _joblib()
    # Unordered, so that a finished layer is noted whatever the others do.
    pool = joblib.Parallel(n_jobs=setup.jobs, return_as="generator_unordered")
    yield from pool(joblib.delayed(score_in_worker)(setup, one) for one in codes)


def _joblib() -> Any:
    try:
        import joblib
    except ImportError as error:
        raise BackendError("--jobs: joblib is missing; pip install 'cmexport[tune]', or use --jobs 1") from error
    return joblib


def score_in_worker(setup: Setup, codes: LayerCodes) -> tuple[str, LayerScores]:
    """Score a layer; the checkpoint is loaded once per process. Returns its key and scores."""
    torch.set_num_threads(1)
    return codes.layer.key, _scorer(setup).score(codes)


@lru_cache(maxsize=1)
def _scorer(setup: Setup) -> LayerScorer:
    model = load_checkpoint(setup.checkpoint, dict(setup.overrides), trust=setup.trust, weights=setup.weights)
    return LayerScorer(captured_graph(model, setup.request), setup.pictures)


def require_layers(layers: Sequence[Layer], checkpoint: str) -> None:
    """Refuse a model that leaves nothing to plan.

    Raises:
        CheckpointError: no layers.
    """
    if not layers:
        raise CheckpointError(f"{checkpoint}: has no convolution or linear layer that is large enough for 8 bits")
