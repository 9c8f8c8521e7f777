"""The ladder: the same pictures from the reference and from every rung between it and what a user will run.

Each rung changes one thing (another format, then optimization), so the first rung that leaves the gate names the
culprit. Only one runner is open at a time: ImageNet-64's weights are 1.2 GB in float32, two of them are too many.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from cmexport.errors import BackendError
from cmexport.parity.gates import byte_gate
from cmexport.parity.inputs import VerificationInputs
from cmexport.parity.metrics import PictureDifference, compare, count_non_finite
from cmexport.runner import Array, Runner

Progress = Callable[[str, int, int], None]
"""Called with a rung's name, pictures done, and pictures in total."""

LEAST_PICTURES = 8
"""Pictures run before the cost of one is trusted, and the fewest that a time budget leaves."""

# A convolution in float64 takes 2 to 4 times as long as in float32 on a CPU.
_EXACT_COST = 3.0


@dataclass(frozen=True)
class Rung:
    """A backend to compare: a name for people, how to open its runner, and a gate of its own if it has one.

    `gate_db` is for float pictures, as the precision's gate is; for this rung the lower of both counts. It is for
    emulations that bound what a device may do.
    """

    name: str
    open: Callable[[], Runner]
    gate_db: float | None = None


@dataclass(frozen=True)
class RungResult:
    """What one rung scored against the reference; `seconds` is the time of its runs, without opening.

    `own_gate_db` is the gate that was applied, where the rung has one of its own.
    """

    name: str
    difference: PictureDifference
    passed: bool
    seconds: float
    own_gate_db: float | None = None


@dataclass(frozen=True)
class ExactComparison:
    """The reference and the last rung against the same sampler in float64.

    `reference` is PyTorch's own float32 error: no artefact can be asked to come closer to the reference than that.
    """

    pictures: int
    reference: PictureDifference
    candidate: PictureDifference


@dataclass(frozen=True, eq=False)
class PreviewPictures:
    """The first pictures of the reference and of the last rung, as the runners gave them."""

    reference: Array
    candidate: Array


@dataclass(frozen=True)
class ParityReport:
    """Everything that was measured.

    Attributes:
        reference: name of the reference rung.
        gate_db: the gate of the precision, for float pictures.
        applied_gate_db: the gate used; lower than `gate_db` for pictures in bytes (see `gates.byte_gate`).
        pictures_asked: pictures the inputs held.
        pictures: pictures run; fewer than asked when the time budget was too short.
        seed: seed of picture 0; picture i has seed + i.
        output: "float" or "uint8".
        reference_non_finite: NaN and Inf numbers in the reference's own pictures.
        reference_seconds: time of the reference's runs.
        rungs: results in the order of the ladder.
        exact: comparison with float64, when one was asked for.
        preview: the first pictures; not part of equality.
    """

    reference: str
    gate_db: float
    applied_gate_db: float
    pictures_asked: int
    pictures: int
    seed: int
    output: str
    reference_non_finite: int
    reference_seconds: float
    rungs: tuple[RungResult, ...]
    exact: ExactComparison | None
    preview: PreviewPictures = field(compare=False, repr=False)

    @property
    def failed_rung(self) -> str | None:
        """Name of the first rung outside the gate; the reference itself if its pictures are not finite."""
        if self.reference_non_finite:
            return self.reference
        return next((rung.name for rung in self.rungs if not rung.passed), None)

    @property
    def passed(self) -> bool:
        """Whether every rung meets the gate."""
        return self.failed_rung is None


@dataclass(frozen=True)
class _Pictures:
    images: Array
    seconds: float


def climb(
    reference: Rung,
    rungs: Sequence[Rung],
    inputs: VerificationInputs,
    gate_db: float,
    *,
    exact: Rung | None = None,
    exact_pictures: int = 4,
    time_budget_s: float | None = None,
    bound_pictures: int | None = None,
    preview_pictures: int = 8,
    progress: Progress | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> ParityReport:
    """Run the reference, then each rung, on the same inputs and compare.

    Args:
        reference: runs first; its pictures are kept, its runner is closed.
        rungs: at least one; all are climbed even when an early one fails.
        inputs: what to run; every runner takes exactly these arrays.
        gate_db: the precision's gate for float pictures.
        exact: the reference in float64, run on the first `exact_pictures` pictures (rounded up to whole runs).
        exact_pictures: pictures for `exact`.
        time_budget_s: seconds that all runs together should take. After the first 8 pictures of the reference the
            cost of one is known, and fewer pictures (never under 8) are run where all would take longer.
        bound_pictures: pictures for rungs with a gate of their own, but the last: emulations of half-precision sums
            take ten times as long as the program itself. None: all.
        preview_pictures: how many pictures the report keeps.
        progress: told about every run.
        clock: monotonic seconds.

    Raises:
        BackendError: a runner returned no `image`, or not one picture per noise.
        CheckpointError: a rung's pictures have another size than the reference's.
        ValueError: there is no rung.
    """
    if not rungs:
        raise ValueError("a ladder needs at least one rung")
    tell = progress or (lambda _name, _done, _total: None)

    def affordable(cost_s: float) -> int:
        if time_budget_s is None or cost_s <= 0.0:
            return len(inputs)
        exact_cost = _EXACT_COST * min(exact_pictures, inputs.pictures) if exact else 0.0
        pictures = (time_budget_s / cost_s - exact_cost) / (len(rungs) + 1)
        return int(max(pictures, 0.0) // inputs.batch)

    truth = _run_reference(reference, inputs, affordable, tell, clock)
    runs = len(truth.images) // inputs.batch
    exact_images: Array | None = None
    if exact is not None:
        exact_runs = min(_runs_for(exact_pictures, inputs.batch), runs)
        exact_images = _run(exact, inputs, exact_runs, tell, clock).images
    output = "uint8" if truth.images.dtype == np.uint8 else "float"

    def applied(gate: float) -> float:
        return gate if output == "float" else byte_gate(gate)

    results = []
    for rung in rungs:
        few = bound_pictures is not None and rung.gate_db is not None and rung is not rungs[-1]
        got = _run(rung, inputs, min(runs, _runs_for(bound_pictures or 0, inputs.batch)) if few else runs, tell, clock)
        difference = compare(truth.images[: len(got.images)], got.images)
        own = None if rung.gate_db is None else applied(min(rung.gate_db, gate_db))
        passed = difference.passes(applied(gate_db) if own is None else own)
        results.append(RungResult(rung.name, difference, passed, got.seconds, own))
    return ParityReport(
        reference=reference.name,
        gate_db=gate_db,
        applied_gate_db=applied(gate_db),
        pictures_asked=inputs.pictures,
        pictures=len(truth.images),
        seed=inputs.seed,
        output=output,
        reference_non_finite=count_non_finite(truth.images),
        reference_seconds=truth.seconds,
        rungs=tuple(results),
        exact=None if exact_images is None else _against_exact(exact_images, truth.images, got.images),
        preview=PreviewPictures(truth.images[:preview_pictures].copy(), got.images[:preview_pictures].copy()),
    )


def _runs_for(pictures: int, batch: int) -> int:
    return -(-pictures // batch)


def _against_exact(exact: Array, reference: Array, candidate: Array) -> ExactComparison:
    count = len(exact)
    return ExactComparison(count, compare(exact, reference[:count]), compare(exact, candidate[:count]))


def _run_reference(
    rung: Rung,
    inputs: VerificationInputs,
    affordable: Callable[[float], int],
    tell: Progress,
    clock: Callable[[], float],
) -> _Pictures:
    """Run the reference on as many runs as `affordable` (from seconds a picture) allows, at least 8 pictures."""
    least = min(_runs_for(LEAST_PICTURES, inputs.batch), len(inputs))
    with _opened(rung) as runner:
        first = _run_some(rung.name, runner, inputs, range(least), len(inputs), tell, clock)
        runs = max(least, min(len(inputs), affordable(first.seconds / len(first.images))))
        if runs == least:
            return first
        rest = _run_some(rung.name, runner, inputs, range(least, runs), runs, tell, clock)
    return _Pictures(np.concatenate([first.images, rest.images]), first.seconds + rest.seconds)


def _run(rung: Rung, inputs: VerificationInputs, runs: int, tell: Progress, clock: Callable[[], float]) -> _Pictures:
    with _opened(rung) as runner:
        return _run_some(rung.name, runner, inputs, range(runs), runs, tell, clock)


@contextmanager
def _opened(rung: Rung) -> Iterator[Runner]:
    """An open runner. The one before is closed by now; what it left in reference cycles goes first."""
    gc.collect()
    with rung.open() as runner:
        yield runner


def _run_some(
    name: str,
    runner: Runner,
    inputs: VerificationInputs,
    which: range,
    total: int,
    tell: Progress,
    clock: Callable[[], float],
) -> _Pictures:
    """Pictures of the runs `which` out of `total`, copied out of the backend's buffers."""
    batch, images, seconds = inputs.batch, [], 0.0
    tell(name, which.start * batch, total * batch)
    for index in which:
        arrays = inputs[index]
        start = clock()
        outputs = runner(arrays)
        seconds += clock() - start
        image = outputs.get("image")
        if image is None:
            raise BackendError(f"{name}: the graph has no output 'image', only {', '.join(outputs) or 'none'}")
        if image.ndim != 4 or len(image) != batch:
            raise BackendError(f"{name}: output 'image' has shape {image.shape} for {batch} noise pictures")
        images.append(image.copy() if image.dtype in (np.uint8, np.float64) else image.astype(np.float32))
        tell(name, (index + 1) * batch, total * batch)
    return _Pictures(np.concatenate(images), seconds)
