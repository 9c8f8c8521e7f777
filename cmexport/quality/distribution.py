"""Whether an artefact's pictures are distributed as the reference's: features beside PSNR.

PSNR says how far one picture moved, not whether the moves have a direction: a model that loses a little contrast in
every picture scores as one that adds a little noise. Both draw from the same noise and labels, run by run in turns, so
that a picture's PSNR is known without keeping it: of N pictures N features stay. The price is that both networks are in
memory at once (the ladder has one at a time).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from cmexport.artifact import Manifest, read_manifest
from cmexport.errors import CheckpointError, UsageError
from cmexport.model import ConsistencyModel
from cmexport.parity.gates import byte_gate, gate_of
from cmexport.parity.inputs import VerificationInputs, draw_inputs
from cmexport.parity.ladder import Rung
from cmexport.parity.metrics import channels_last, compare, psnr_db
from cmexport.progress import Progress
from cmexport.quality.frechet import Gaussian, Moments, frechet_distance
from cmexport.quality.jackknife import BLOCKS, Estimate, blocks_of, jackknife
from cmexport.quality.jury import Features, Jury
from cmexport.recorded import artifact_rungs, checkpoint_of, sampler_of
from cmexport.runner import Array, Runner, picture_of
from cmexport.sampling.reference import TorchRunner
from cmexport.sampling.resolved import Sampler
from cmexport.signature import Signature

LEAST = 2 * BLOCKS
"""Pictures below which there is no interval."""

# PyTorch in batches of 16 draws the demo's pictures twice as fast as one by one. Larger pictures fill the cores, and
# the memory, sooner.
_BATCH = 16
_BATCH_PIXELS = _BATCH * 64 * 64


@dataclass(frozen=True)
class DistributionOptions:
    """How much to compare.

    Attributes:
        count: pictures on each side.
        seed: seed of picture 0; picture i uses seed + i.
        batch: pictures per run of the reference; None: 16, fewer above 64x64. The artefact has its own.
    """

    count: int = 5000
    seed: int = 0
    batch: int | None = None


@dataclass(frozen=True)
class Fidelity:
    """PSNR picture by picture, peak 2.0.

    Attributes:
        gate_db: the precision's gate, as applied (lower for pictures in bytes); it is for the mean.
        non_finite: pictures with NaN or Inf on either side.
        identical: pictures without a single differing number.
        mean_db: as `PictureDifference.mean_db`; None when all are identical or any is not finite.
        min_db: the worst picture; None as for `mean_db`.
        percentile_1_db: 1 % of the pictures are no better; None as for `mean_db`, or when that picture is identical.
        worst_seed: seed of the worst picture, or of the first that is not finite; None when all are identical.
        below_gate: share (0 to 1) of pictures below the gate; one that is not finite counts.
    """

    gate_db: float
    non_finite: int
    identical: int
    mean_db: float | None
    min_db: float | None
    percentile_1_db: float | None
    worst_seed: int | None
    below_gate: float

    @property
    def passed(self) -> bool:
        """Whether the mean reaches the gate with every number finite."""
        return self.non_finite == 0 and (self.mean_db is None or self.mean_db >= self.gate_db)


@dataclass(frozen=True)
class Distances:
    """Fréchet distances between sets of N pictures. All depend on N: compare only figures of the same N.

    Attributes:
        artifact_reference: from the artefact's pictures to the reference's; same noise and labels.
        artifact_real: from the artefact's pictures to real ones; None without their statistics.
        reference_real: from the reference's to real ones.
        difference: `artifact_real` less `reference_real`; the same pictures in both make it far surer than either.
        halves: from the first half of the reference's pictures to its second: what other seeds alone do, at N / 2.
    """

    artifact_reference: Estimate
    artifact_real: Estimate | None
    reference_real: Estimate | None
    difference: Estimate | None
    halves: float


@dataclass(frozen=True)
class Agreement:
    """Shares (0 to 1) of pictures by the judge's class.

    Attributes:
        classes: how many classes the judge knows.
        same: the artefact's picture has the class of the reference's.
        artifact_asked: the artefact's picture has the class that was asked for; None where none was, or where the
            judge knows another number of classes than the model. Class k of the judge must be label k.
        reference_asked: the same for the reference.
    """

    classes: int
    same: float
    artifact_asked: float | None
    reference_asked: float | None


@dataclass(frozen=True)
class DistributionReport:
    """Everything that was measured on one graph.

    Attributes:
        candidate: name of the artefact's runtime.
        judge: as `--features` had it.
        pictures: N, on each side.
        seed: seed of picture 0.
        seconds: time of drawing and judging both.
        features: D.
        fidelity: PSNR over the N pictures.
        distances: None when a picture is not finite.
        agreement: None for a judge without classes, or when a picture is not finite.
    """

    candidate: str
    judge: str
    pictures: int
    seed: int
    seconds: float
    features: int
    fidelity: Fidelity
    distances: Distances | None
    agreement: Agreement | None


@dataclass(frozen=True)
class Side:
    """One of the two that draw: how it is opened, and what it runs on."""

    name: str
    open: Callable[[], Runner]
    inputs: VerificationInputs


@dataclass
class _Gathered:
    """What is kept of the pictures."""

    features: tuple[list[Features], list[Features]] = field(default_factory=lambda: ([], []))
    classes: tuple[list[Array], list[Array]] = field(default_factory=lambda: ([], []))
    known_classes: int = 0
    labels: list[Array] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)


def compare_distributions(
    folder: Path,
    jury: Jury,
    against: str | None,
    overrides: Mapping[str, str],
    options: DistributionOptions,
    progress: Progress,
    function: str | None = None,
    loaded: Callable[[ConsistencyModel], None] = lambda _model: None,
    *,
    weights: str | None = None,
    trust: bool = False,
) -> dict[str, DistributionReport]:
    """Draw with a written artefact and with its checkpoint, and compare: each of its graphs, or only `function`.

    Args:
        folder: the artefact.
        jury: who judges.
        against: checkpoint; None: the recorded one.
        overrides: `--set` fields.
        options: how much.
        progress: told about stages and pictures.
        function: one graph of several.
        weights: see `verification.checkpoint_of`.
        trust: likewise.
        loaded: told about the checkpoint before the work begins.

    Raises:
        UsageError: too few pictures, no checkpoint to compare with, or no such graph.
        CheckpointError: the artefact, the checkpoint or the judge can't be used, or they don't belong together.
    """
    if options.count < LEAST:
        raise UsageError(f"--count {options.count}: at least {LEAST} pictures are compared")
    if options.seed < 0 or (options.batch is not None and options.batch < 1):
        raise UsageError("--seed must not be negative and --batch must be at least 1")
    whole = read_manifest(folder)
    names = whole.function_names if function is None else (function,)
    manifests = {name: whole.function(name) for name in names}
    progress.step("load")
    model = checkpoint_of(whole, against, overrides, weights=weights, trust=trust)
    loaded(model)
    reports = {}
    for name, manifest in manifests.items():
        progress.step("draw and judge" if len(names) == 1 else f"{name}: draw and judge")
        reports[name] = _compare_graph(folder, manifest, model, jury, options, progress)
    return reports


def _compare_graph(
    folder: Path,
    manifest: Manifest,
    model: ConsistencyModel,
    jury: Jury,
    options: DistributionOptions,
    progress: Progress,
) -> DistributionReport:
    sampler = sampler_of(model, manifest)
    shipped = artifact_rungs(folder, manifest)[-1]
    reference = _reference(sampler, options)
    candidate = Side(shipped.name, shipped.open, _inputs(manifest.signature, options))
    gate = gate_of(manifest.precision, manifest.numerics)
    return compare_sides(
        *(reference, candidate, jury, options.count),
        gate_db=byte_gate(gate) if sampler.signature.output.is_bytes else gate,
        label=sampler.request.label,
        progress=progress,
    )


def _reference(sampler: Sampler, options: DistributionOptions) -> Side:
    space = sampler.model.space
    batch = options.batch or max(1, min(_BATCH, _BATCH_PIXELS // (space.height * space.width)))
    wide = sampler.with_batch(batch)
    opened = Rung("PyTorch float32", partial(TorchRunner, wide))
    return Side(opened.name, opened.open, _inputs(wide.signature, options))


def _inputs(signature: Signature, options: DistributionOptions) -> VerificationInputs:
    return draw_inputs(signature, options.count, options.seed)


def compare_sides(
    reference: Side,
    candidate: Side,
    jury: Jury,
    count: int,
    *,
    gate_db: float,
    label: int | None = None,
    progress: Progress | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> DistributionReport:
    """Compare any two that draw `count` pictures.

    Args:
        reference: what is to be equalled.
        candidate: what is compared.
        jury: who judges.
        count: pictures, at least `LEAST`.
        gate_db: gate of the mean PSNR, as applied to the pictures' type.
        label: the class baked into both; None: the one each run is given, if any.
        progress: told about pictures and stages.
        clock: monotonic seconds.

    Raises:
        CheckpointError: the pictures differ in shape, or the jury refuses them.
        ValueError: fewer pictures than `LEAST`.
    """
    tell = progress or Progress()
    blocks_of(count)
    found, start = _Gathered(), clock()
    with reference.open() as first, candidate.open() as second:
        for done, pictures, labels in _in_turns((reference, candidate), (first, second), count):
            if labels is not None:
                found.labels.append(labels)
            _gather(found, jury, *pictures)
            tell.pictures("pictures", done, count)
    seconds = clock() - start
    whole = [np.concatenate(part) for part in found.features]
    finite = all(math.isfinite(error) for error in found.errors)
    if finite and not all(np.isfinite(part).all() for part in whole):
        raise CheckpointError(f"--features {jury.name}: gives NaN or Inf for pictures that have none")
    tell.step("distances and their intervals")
    asked = np.full(count, label) if label is not None else np.concatenate(found.labels) if found.labels else None
    return DistributionReport(
        candidate=candidate.name,
        judge=jury.name,
        pictures=count,
        seed=reference.inputs.seed,
        seconds=seconds,
        features=whole[0].shape[1],
        fidelity=fidelity_of(found.errors, gate_db, reference.inputs.seed),
        distances=measure(whole[0], whole[1], jury.real) if finite else None,
        agreement=_agreement(found, asked, _classes(reference)) if finite and found.known_classes else None,
    )


def _classes(side: Side) -> int | None:
    choice = side.inputs.signature.choice
    return None if choice is None else choice.count


def _in_turns(
    sides: tuple[Side, Side], runners: tuple[Runner, Runner], count: int
) -> Iterator[tuple[int, tuple[Array, Array], Array | None]]:
    """Pictures drawn so far, both sides' new pictures and the labels they were asked for, in steps of whole runs."""
    step = math.lcm(*(side.inputs.batch for side in sides))
    step *= -(-_BATCH // step)
    for begin in range(0, count, step):
        end = min(begin + step, count)
        wanted = slice(end - begin)
        (reference, labels), (candidate, _) = (
            _draw(side.inputs, runner, begin, end) for side, runner in zip(sides, runners, strict=True)
        )
        yield end, (reference[wanted], candidate[wanted]), None if labels is None else labels[wanted]


def _draw(inputs: VerificationInputs, runner: Runner, begin: int, end: int) -> tuple[Array, Array | None]:
    """Pictures `begin` to at least `end`, and their labels."""
    runs = [inputs[i] for i in range(begin // inputs.batch, -(-end // inputs.batch))]
    # Copied run by run: a runtime may write the next pictures where these are.
    pictures = np.concatenate([picture_of(runner(run)).copy() for run in runs])
    choice = inputs.signature.choice
    return pictures, None if choice is None else np.concatenate([run[choice.name] for run in runs])


def _gather(found: _Gathered, jury: Jury, reference: Array, candidate: Array) -> None:
    for index in range(len(reference)):
        found.errors.append(_squared_error(reference[index : index + 1], candidate[index : index + 1]))
    for pictures, features, classes in zip((reference, candidate), found.features, found.classes, strict=True):
        judged, scores = jury.judge(_as_float(pictures))
        features.append(judged)
        if scores is not None:
            classes.append(scores.argmax(axis=1))
            found.known_classes = scores.shape[1]


def _squared_error(reference: Array, candidate: Array) -> float:
    """Mean squared error of one pair, as `compare` takes it; infinite where a number is not finite."""
    difference = compare(reference, candidate)
    if difference.non_finite:
        return math.inf
    return 0.0 if difference.mean_db is None else 4.0 * 10.0 ** (-difference.mean_db / 10.0)


def _as_float(pictures: Array) -> Array:
    """Float (N, C, H, W) or bytes (N, H, W, C) to float32 (N, C, H, W) in [-1, 1]."""
    if pictures.dtype != np.uint8:
        return pictures.astype(np.float32)
    return np.ascontiguousarray(channels_last(pictures).transpose(0, 3, 1, 2).astype(np.float32))


def fidelity_of(errors: Sequence[float], gate_db: float, seed: int = 0) -> Fidelity:
    """PSNR over pictures from their mean squared errors, infinite where a picture has NaN or Inf."""
    count = len(errors)
    broken = sum(not math.isfinite(error) for error in errors)
    identical = sum(error == 0.0 for error in errors)
    decibels = [psnr_db(error) if math.isfinite(error) else -math.inf for error in errors]
    mean = least = percentile = None
    if not broken and identical < count:
        mean = psnr_db(math.fsum(errors) / count) if identical else math.fsum(decibels) / count
        least = min(decibels)
        # The picture itself, no value between two: one of them may be infinite.
        lower = float(np.percentile(decibels, 1, method="lower"))
        percentile = lower if math.isfinite(lower) else None
    return Fidelity(
        gate_db=gate_db,
        non_finite=broken,
        identical=identical,
        mean_db=mean,
        min_db=least,
        percentile_1_db=percentile,
        worst_seed=None if identical == count else seed + max(range(count), key=lambda i: errors[i]),
        below_gate=sum(value < gate_db for value in decibels) / count,
    )


def measure(reference: Features, candidate: Features, real: Gaussian | None) -> Distances:
    """Fréchet distances between features (N, D) of the reference, of the candidate and, perhaps, real pictures.

    Intervals leave out the same block of pictures on both sides, as they share their noise. The statistics of real
    pictures are taken as exact.

    Raises:
        ValueError: not N on both sides, or fewer than `LEAST`.
    """
    if reference.shape != candidate.shape:
        raise ValueError(f"features {reference.shape} and {candidate.shape}")
    blocks = blocks_of(len(reference))
    first, second = Moments.of(reference), Moments.of(candidate)
    whole = _figures(first.gaussian, second.gaussian, real)
    # Moments of a block are made when it is left out: 20 kept ones of 2048 features would be 1.3 GB.
    left_out = [
        _figures(_without(first, reference[b.start : b.stop]), _without(second, candidate[b.start : b.stop]), real)
        for b in blocks
    ]
    ends = (0.0, 0.0, 0.0, -math.inf)
    estimates = [jackknife(value, [figures[i] for figures in left_out], ends[i]) for i, value in enumerate(whole)]
    half = len(reference) // 2
    halves = frechet_distance(Moments.of(reference[:half]).gaussian, Moments.of(reference[half:]).gaussian)
    apart, *others = estimates
    artifact_real, reference_real, difference = others or (None, None, None)
    return Distances(apart, artifact_real, reference_real, difference, halves)


def _without(whole: Moments, features: Features) -> Gaussian:
    part = Moments.of(features)
    return Moments(whole.count - part.count, whole.total - part.total, whole.squares - part.squares).gaussian


def _figures(reference: Gaussian, candidate: Gaussian, real: Gaussian | None) -> list[float]:
    """Measure the distance between both; with real pictures also each one's from those, and their difference."""
    # Between equal covariances without full rank the roots of rounding errors can exceed the distance.
    apart = max(frechet_distance(reference, candidate), 0.0)
    if real is None:
        return [apart]
    theirs, ours = frechet_distance(real, candidate), frechet_distance(real, reference)
    return [apart, theirs, ours, theirs - ours]


def _agreement(found: _Gathered, asked: Array | None, labels: int | None) -> Agreement:
    reference, candidate = (np.concatenate(part) for part in found.classes)
    comparable = asked is not None and labels == found.known_classes
    return Agreement(
        classes=found.known_classes,
        same=float(np.mean(reference == candidate)),
        artifact_asked=float(np.mean(candidate == asked)) if comparable else None,
        reference_asked=float(np.mean(reference == asked)) if comparable else None,
    )
