"""The ladder: the same pictures from the reference and from every rung between it and what a user will run.

Each rung changes one thing (another format, then optimization), so the first rung that leaves the gate names the
culprit. Only one runner is open at a time: ImageNet-64's weights are 1.2 GB in float32, two of them are too many.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from cmexport.errors import BackendError
from cmexport.memory import return_free_memory
from cmexport.parity.gates import Yardstick, byte_gate
from cmexport.parity.inputs import VerificationInputs
from cmexport.parity.metrics import PictureDifference, compare, count_non_finite
from cmexport.parity.sensitivity import (
    PAIRS,
    PromptPairs,
    TextSensitivity,
    check_reacts,
    compare_reactions,
    prompt_pairs,
    reactions,
)
from cmexport.runner import Array, InParts, Runner, picture_of

PartSeconds = tuple[tuple[str, float], ...]
"""Names of graphs that run in turn, and the median seconds of a run of each."""

TellPictures = Callable[[str, int, int], None]
"""Called with a rung's name, pictures done, and pictures in total."""

LEAST_PICTURES = 8
"""Pictures run before the cost of one is trusted, and the fewest that a time budget leaves."""

SETTLING_PICTURES = 16
"""Pictures after which a rung may be settled: see `_settled`."""

# Standard errors of the mean that must lie between it and the gate. Pictures' PSNR are no normal variables: the demo's
# have a spread of 0.5 to 3 dB and a tail to the left, where the worst of 1,500 lies 4 spreads below the mean.
_SETTLING_ERRORS = 6.0

# A convolution in float64 takes 2 to 4 times as long as in float32 on a CPU.
_EXACT_COST = 3.0


@dataclass(frozen=True)
class Rung:
    """A backend to compare: a name for people, how to open its runner, and a gate of its own if it has one.

    `gate_db` is for float pictures, as the precision's gate is; for this rung the lower of both counts. It is for
    emulations that bound what a device may do. `pictures_at_once` is more than 1 for a runner that takes any batch.
    """

    name: str
    open: Callable[[], Runner]
    gate_db: float | None = None
    pictures_at_once: int = 1


@dataclass(frozen=True)
class RungResult:
    """What one rung scored against the reference; `seconds` is the time of its runs, without opening.

    `own_gate_db` is the gate that was applied, where the rung has one of its own; `sensitivity` how it follows prompts,
    where the graph takes any and the rung ran all pictures. `part_seconds` are the medians of the runs of graphs that
    run in turn, by name; empty where one graph does it all.
    """

    name: str
    difference: PictureDifference
    passed: bool
    seconds: float
    own_gate_db: float | None = None
    sensitivity: TextSensitivity | None = None
    part_seconds: PartSeconds = ()


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
    """What comparing an artefact with PyTorch showed, rung by rung.

    Attributes:
        reference: name of the reference rung.
        gate_db: the gate of the precision, for float pictures, or what it was replaced by.
        gate_origin: what it was replaced by, in words; "" for the precision's own.
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
        settled: fewer pictures than asked were run because they left no doubt.
        alone_db: what each of several graphs costs alone, by name: see `alone.alone_db`; empty where it was not asked.
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
    settled: bool = False
    gate_origin: str = ""
    alone_db: tuple[tuple[str, float | None], ...] = ()

    @property
    def sensitivity(self) -> TextSensitivity | None:
        """How what ships follows prompts; None where it takes none."""
        return self.rungs[-1].sensitivity

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


@dataclass(frozen=True, eq=False)
class Truth:
    """What rungs are compared with: the reference's pictures, the seconds of its runs, the first few in float64.

    `reworded` are the second pictures of the `PromptPairs` with the key `pairs`; None where none were drawn.
    """

    images: Array
    seconds: float
    exact: Array | None = None
    reworded: Array | None = None
    pairs: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class _Pictures:
    images: Array
    seconds: float
    reworded: Array | None = None
    part_seconds: PartSeconds = ()


def draw_truth(reference: Rung, inputs: VerificationInputs, exact: Rung | None, exact_pictures: int) -> Truth:
    """Draw for `climb` what it draws first: on all `inputs`, whatever that costs; without `exact` float32 alone.

    Raises:
        BackendError: see `climb`.
    """
    # Fewer pictures are paired otherwise: see `prompt_pairs`.
    pairs = prompt_pairs(inputs) if inputs.pictures >= PAIRS else None
    drawn = _run(reference, inputs, len(inputs), _tell_nobody, time.perf_counter, pairs=pairs)
    truth = Truth(drawn.images, drawn.seconds, None, drawn.reworded, () if pairs is None else pairs.key)
    return _with_exact(truth, exact, exact_pictures, inputs, _tell_nobody, time.perf_counter)


def _with_exact(
    truth: Truth,
    exact: Rung | None,
    pictures: int,
    inputs: VerificationInputs,
    tell: TellPictures,
    clock: Callable[[], float],
) -> Truth:
    if exact is None:
        return truth
    runs = min(_runs_for(pictures, inputs.batch), len(truth.images) // inputs.batch)
    return replace(truth, exact=_run(exact, inputs, runs, tell, clock).images)


def _tell_nobody(_name: str, _done: int, _total: int) -> None:
    pass


def first_of(inputs: VerificationInputs, pictures: int) -> VerificationInputs:
    """Take the first `pictures` of the inputs, rounded up to whole runs."""
    return replace(inputs, pictures=min(_runs_for(pictures, inputs.batch) * inputs.batch, inputs.pictures))


def climb(
    reference: Rung,
    rungs: Sequence[Rung],
    inputs: VerificationInputs,
    gate_db: float,
    *,
    text_gate: tuple[float, float] = (0.95, 1.05),
    yardstick: Yardstick | None = None,
    exact: Rung | None = None,
    exact_pictures: int = 4,
    time_budget_s: float | None = None,
    bound_pictures: int | None = None,
    bound_all: bool = False,
    settle_early: bool = False,
    settle_last: bool = False,
    least_pictures: int = LEAST_PICTURES,
    wanted_pairs: int | None = PAIRS,
    preview_pictures: int = 8,
    drawn: Truth | None = None,
    reference_done: Callable[[], None] = lambda: None,
    progress: TellPictures | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> ParityReport:
    """Run the reference, then each rung, on the same inputs and compare.

    Args:
        reference: runs first; its pictures are kept, its runner is closed.
        rungs: at least one; all are climbed even when an early one fails.
        inputs: what to run; every runner takes exactly these arrays.
        gate_db: the precision's gate for float pictures.
        text_gate: between which ratios to the reference's pictures must react to a prompt; see `TextSensitivity`.
        yardstick: what may lower `gate_db`: the plain precision's own pictures.
        exact: the reference in float64, run on the first `exact_pictures` pictures (rounded up to whole runs).
        exact_pictures: pictures for `exact`.
        time_budget_s: seconds that all runs together should take. After the first 8 pictures of the reference the
            cost of one is known, and fewer pictures (never under 8) are run where all would take longer.
        least_pictures: another number than these 8: of a model whose single picture takes many seconds.
        wanted_pairs: pairs of pictures with other prompts; None: as many as pictures.
        bound_pictures: pictures for rungs with a gate of their own, but the last: emulations of half-precision sums
            take ten times as long as the program itself. None: all.
        bound_all: as many for rungs without a gate of their own, too: of a model whose single picture takes minutes.
        settle_early: rungs before the last run `SETTLING_PICTURES` pictures only, where these leave no doubt.
        settle_last: the last one too, and the reference, where no rung leaves a doubt; else all rungs run all pictures.
        preview_pictures: how many pictures the report keeps.
        drawn: what `draw_truth` gave for the first of the inputs (`LEAST_PICTURES` or more; with `settle_last` at most
            `SETTLING_PICTURES`); what it lacks is drawn here.
        reference_done: called when neither the reference nor what measures the gate is needed any more, before the
            first rung is opened; not where `settle_last` needs few pictures only.
        progress: told about every run.
        clock: monotonic seconds.

    Raises:
        BackendError: a runner returned no `image`, or not one picture per noise.
        CheckpointError: a rung's pictures have another size than the reference's, or those ignore the prompt.
        ValueError: there is no rung.
    """
    if not rungs:
        raise ValueError("a ladder needs at least one rung")
    tell = progress or _tell_nobody
    ladder = _Ladder(
        *(reference, tuple(rungs), gate_db, text_gate, yardstick, exact, exact_pictures),
        *(time_budget_s, bound_pictures, bound_all, least_pictures, wanted_pairs, preview_pictures),
        *(reference_done, tell, clock),
    )
    few = first_of(inputs, SETTLING_PICTURES)
    # What the ladder starts with stays alive throughout: without it each collection takes 0.02 s, not 0.16.
    gc.collect()
    gc.freeze()
    try:
        if settle_last and few.pictures < inputs.pictures:
            # All pictures may still be asked of the reference.
            first = replace(ladder, reference_done=lambda: None)
            report, settled = first.climb(few, drawn, settle_early=False)
            if settled:
                return replace(report, pictures_asked=inputs.pictures, settled=True)
            drawn = None
        return ladder.climb(inputs, drawn, settle_early=settle_early)[0]
    finally:
        gc.unfreeze()


@dataclass(frozen=True)
class _Ladder:
    """What `climb` was asked, to be climbed with any number of pictures."""

    reference: Rung
    rungs: tuple[Rung, ...]
    gate_db: float
    text_gate: tuple[float, float]
    yardstick: Yardstick | None
    exact: Rung | None
    exact_pictures: int
    time_budget_s: float | None
    bound_pictures: int | None
    bound_all: bool
    least_pictures: int
    wanted_pairs: int | None
    preview_pictures: int
    reference_done: Callable[[], None]
    tell: TellPictures
    clock: Callable[[], float]

    def climb(
        self, inputs: VerificationInputs, drawn: Truth | None, *, settle_early: bool
    ) -> tuple[ParityReport, bool]:
        """Run the rungs. Returns the report, and whether every rung is settled (see `_settled`)."""
        truth, pairs = self._truth(inputs, drawn)
        runs, exact_images = len(truth.images) // inputs.batch, truth.exact
        output = "uint8" if truth.images.dtype == np.uint8 else "float"
        gate_db, origin = self._gate(truth, inputs)
        self.reference_done()

        def applied(gate: float) -> float:
            return gate if output == "float" else byte_gate(gate)

        results = []
        all_settled = not count_non_finite(truth.images)
        for rung in self.rungs:
            own = None if rung.gate_db is None else applied(min(rung.gate_db, gate_db))
            gate = applied(gate_db) if own is None else own
            last = rung is self.rungs[-1]
            bound = self.bound_all or rung.gate_db is not None
            few = self.bound_pictures is not None and bound and not last
            wanted = min(runs, _runs_for(self.bound_pictures or 0, inputs.batch)) if few else runs
            doubt = partial(_in_doubt, truth.images, gate) if settle_early and not last else None
            asked = pairs if last or not (few or self.time_budget_s) else None
            got = _run(rung, inputs, wanted, self.tell, self.clock, doubt, asked)
            difference = compare(truth.images[: len(got.images)], got.images)
            follows = self._follows(truth, got, pairs)
            passed = difference.passes(gate) and (follows is None or follows.passed)
            results.append(RungResult(rung.name, difference, passed, got.seconds, own, follows, got.part_seconds))
            all_settled = all_settled and _settled(truth.images, got.images, gate)
        report = ParityReport(
            reference=self.reference.name,
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
            preview=PreviewPictures(
                truth.images[: self.preview_pictures].copy(), got.images[: self.preview_pictures].copy()
            ),
            gate_origin=origin,
        )
        return report, all_settled

    def _truth(self, inputs: VerificationInputs, begun: Truth | None) -> tuple[Truth, PromptPairs | None]:
        least = min(_runs_for(self.least_pictures, inputs.batch), len(inputs))
        drawn = _run_reference(self.reference, inputs, least, self._affordable(inputs), self.tell, self.clock, begun)
        truth = Truth(drawn.images, drawn.seconds)
        pairs = self._pairs(first_of(inputs, len(drawn.images)))
        if pairs is not None:
            if begun is not None and begun.reworded is not None and begun.pairs == pairs.key:
                reworded = begun.reworded
            else:
                reworded = _run(self.reference, pairs.inputs, len(pairs.inputs), self.tell, self.clock).images
            truth = replace(truth, reworded=reworded, pairs=pairs.key)
            check_reacts(reactions(pairs.first_pictures(truth.images), reworded))
        if self.exact is not None and begun is not None and begun.exact is not None:
            return replace(truth, exact=begun.exact), pairs
        return _with_exact(truth, self.exact, self.exact_pictures, inputs, self.tell, self.clock), pairs

    def _pairs(self, inputs: VerificationInputs) -> PromptPairs | None:
        return prompt_pairs(inputs, inputs.pictures if self.wanted_pairs is None else self.wanted_pairs)

    def _follows(self, truth: Truth, got: _Pictures, pairs: PromptPairs | None) -> TextSensitivity | None:
        """How a rung follows prompts; None where its second pictures were not drawn."""
        if pairs is None or truth.reworded is None or got.reworded is None:
            return None
        in_bytes = np.uint8 in (truth.images.dtype, got.images.dtype)
        expected, found = (
            reactions(pairs.first_pictures(side.images), others, in_bytes=in_bytes)
            for side, others in ((truth, truth.reworded), (got, got.reworded))
        )
        return compare_reactions(expected, found, self.text_gate)

    def _gate(self, truth: Truth, inputs: VerificationInputs) -> tuple[float, str]:
        """Find the gate for float pictures, and where it comes from if it is not the precision's own."""
        plainly = self.yardstick
        if plainly is None:
            return self.gate_db, ""
        if plainly.open is not None:
            runs = min(_runs_for(plainly.pictures, inputs.batch), len(truth.images) // inputs.batch)
            drawn = _run(Rung(plainly.name, plainly.open), inputs, runs, self.tell, self.clock).images
            plain = compare(truth.images[: len(drawn)], drawn)
        elif truth.exact is not None:
            plain = compare(truth.exact, truth.images[: len(truth.exact)])
        else:
            return self.gate_db, ""
        return plainly.gate(self.gate_db, plain, in_bytes=truth.images.dtype == np.uint8)

    def _affordable(self, inputs: VerificationInputs) -> Callable[[float], int]:
        """Turn seconds a picture into the number of runs that the time budget allows."""

        def runs(cost_s: float) -> int:
            if self.time_budget_s is None or cost_s <= 0.0:
                return len(inputs)
            exact_cost = _EXACT_COST * min(self.exact_pictures, inputs.pictures) if self.exact else 0.0
            pairs = self._pairs(first_of(inputs, self.least_pictures))
            runs_of_each, fixed = len(self.rungs) + 1, exact_cost
            if pairs is not None and self.wanted_pairs is None:
                # A pair for each picture, drawn by the reference and by what ships; and the gate's own pictures.
                runs_of_each += 2 + (self.yardstick is not None)
            elif pairs is not None:
                fixed += 2 * PAIRS
            pictures = (self.time_budget_s / cost_s - fixed) / runs_of_each
            return int(max(pictures, 0.0) // inputs.batch)

        return runs


def _settled(reference: Array, candidate: Array, gate_db: float) -> bool:
    """Whether these pictures leave no doubt that the mean over any number of them meets the gate.

    No picture is below the gate, and the mean lies `_SETTLING_ERRORS` of its standard errors above it.
    """
    if len(candidate) < SETTLING_PICTURES:
        return False
    each = [compare(a[None], b[None]) for a, b in zip(reference, candidate, strict=False)]
    if any(difference.non_finite for difference in each):
        return False
    scores = [difference.mean_db for difference in each if difference.mean_db is not None]
    if not scores:
        return True
    error = float(np.std(scores)) / math.sqrt(len(scores))
    return min(scores) >= gate_db and float(np.mean(scores)) - _SETTLING_ERRORS * error >= gate_db


def _in_doubt(reference: Array, gate_db: float, candidate: Array) -> bool:
    return not _settled(reference[: len(candidate)], candidate, gate_db)


def _runs_for(pictures: int, batch: int) -> int:
    return -(-pictures // batch)


def _against_exact(exact: Array, reference: Array, candidate: Array) -> ExactComparison:
    count = len(exact)
    return ExactComparison(count, compare(exact, reference[:count]), compare(exact, candidate[:count]))


def _run_reference(
    rung: Rung,
    inputs: VerificationInputs,
    least: int,
    affordable: Callable[[float], int],
    tell: TellPictures,
    clock: Callable[[], float],
    begun: Truth | None,
) -> _Pictures:
    """Run the reference on as many runs as `affordable` (from seconds a picture) allows, and on the `least`."""
    first = None if begun is None else _Pictures(begun.images, begun.seconds)
    if first is not None:
        least = len(first.images) // inputs.batch
        if least == len(inputs) or affordable(first.seconds / len(first.images)) <= least:
            tell(rung.name, len(first.images), len(first.images))
            return first
    with _opened(rung) as runner:
        if first is None:
            first = _run_some(rung, runner, inputs, range(least), len(inputs), tell, clock)
        runs = max(least, min(len(inputs), affordable(first.seconds / len(first.images))))
        if runs == least:
            return first
        rest = _run_some(rung, runner, inputs, range(least, runs), runs, tell, clock)
    return _Pictures(np.concatenate([first.images, rest.images]), first.seconds + rest.seconds)


def _run(
    rung: Rung,
    inputs: VerificationInputs,
    runs: int,
    tell: TellPictures,
    clock: Callable[[], float],
    doubt: Callable[[Array], bool] | None = None,
    pairs: PromptPairs | None = None,
) -> _Pictures:
    """Run `runs` times, then `pairs`, which `seconds` leaves out; or only until few pictures leave no doubt."""
    few = runs if doubt is None else min(_runs_for(SETTLING_PICTURES, inputs.batch), runs)
    with _opened(rung) as runner:
        drawn = _run_some(rung, runner, inputs, range(few), runs, tell, clock)
        if few < runs:
            if doubt is not None and not doubt(drawn.images):
                return drawn
            rest = _run_some(rung, runner, inputs, range(few, runs), runs, tell, clock)
            drawn = _Pictures(np.concatenate([drawn.images, rest.images]), drawn.seconds + rest.seconds)
        if isinstance(runner, InParts):
            drawn = replace(drawn, part_seconds=tuple(runner.part_seconds.items()))
        if pairs is None:
            return drawn
        others = _run_some(rung, runner, pairs.inputs, range(len(pairs.inputs)), len(pairs.inputs), tell, clock)
    return replace(drawn, reworded=others.images)


@contextmanager
def _opened(rung: Rung) -> Iterator[Runner]:
    """Open a runner. The one before is closed by now; what it left in reference cycles and free pages goes first."""
    return_free_memory()
    with rung.open() as runner:
        yield runner


def _run_some(
    rung: Rung,
    runner: Runner,
    inputs: VerificationInputs,
    which: range,
    total: int,
    tell: TellPictures,
    clock: Callable[[], float],
) -> _Pictures:
    """Pictures of the runs `which` out of `total`, copied out of the backend's buffers."""
    name, batch, images, seconds = rung.name, inputs.batch, [], 0.0
    together = max(1, rung.pictures_at_once // batch)
    tell(name, which.start * batch, total * batch)
    for start_of_group in which[::together]:
        group = range(start_of_group, min(start_of_group + together, which.stop))
        arrays = inputs.signature.join([inputs[index] for index in group])
        start = clock()
        image = picture_of(runner(arrays))
        seconds += clock() - start
        if image.ndim != 4 or len(image) != batch * len(group):
            raise BackendError(f"{name}: the output has shape {image.shape} for {batch * len(group)} pictures")
        image = inputs.signature.output.as_pictures(image)
        images.append(image.copy() if image.dtype in (np.uint8, np.float64) else image.astype(np.float32))
        tell(name, group.stop * batch, total * batch)
    return _Pictures(np.concatenate(images), seconds)
