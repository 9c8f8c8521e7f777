"""Verify: the parity ladder on a file that is being written, or again on one that was."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from cmexport.artifact import Golden, Manifest, read_manifest
from cmexport.graph.capture import AMPLIFYING, CapturedGraph
from cmexport.graph.exact import ExactRunner
from cmexport.graph.looping import CapturedLoop, ExactLoopRunner, capture_sampler
from cmexport.memory import drop_weights
from cmexport.model import HUGE_MODEL, LARGE_MODEL, ConsistencyModel
from cmexport.parity.ahead import Ahead, can_fork
from cmexport.parity.alone import alone_db
from cmexport.parity.chain import Link
from cmexport.parity.gates import Yardstick, gate_of, text_gate
from cmexport.parity.inputs import VerificationInputs, draw_inputs
from cmexport.parity.ladder import (
    LEAST_PICTURES,
    SETTLING_PICTURES,
    ParityReport,
    Rung,
    Truth,
    climb,
    draw_truth,
    first_of,
)
from cmexport.parity.sensitivity import PAIRS
from cmexport.progress import Progress
from cmexport.quantize.plain import PLAIN_BITS, PlainRunner
from cmexport.recorded import CheckpointGoneError, artifact_rungs, checkpoint_of, sampler_of
from cmexport.runner import Runner
from cmexport.sampling.reference import TorchRunner
from cmexport.sampling.resolved import Sampler
from cmexport.sampling.stages import Stage
from cmexport.threads import threads

# For a large model the ladder keeps to a time budget, and one picture in float64 must tell PyTorch's own error. For
# others all pictures are run, however slow the machine, but above this many weights, counted once for each step, 64
# take longer on all rungs than making the file (8 steps of the demo: 25 s against 10): 16 are run where they leave no
# doubt.
_COSTLY_MODEL = 30_000_000

# Weights, counted once for each step, times threads. One thread takes 3.5 s for 64 pictures of the demo's 8 M weights,
# and tracing and translating 5 s; eight steps on two cores, 16 pictures, come out even.
_WAITED_FOR = 5 * _COSTLY_MODEL

_FP16_OVER_BFLOAT16_DB = 20.0  # it has 3 more bits, 18 dB, and layers that multiply errors stay in float32
_UNDER_OWN_ERROR_DB = 6.0  # another order of the same float32 sums, on pictures that float64 has not all drawn

_ALONE_PICTURES = 8
"""That parts are scored on; two steps of the emoji model take 6 s in all."""

_LEAST_OF_HUGE_MODELS = 2
"""Pictures of a model beyond `HUGE_MODEL`, each of 786,432 numbers at 512x512, that are compared in any case."""

_BOUND_OF_HUGE_MODELS = 1
"""Pictures of them that rungs before the last one draw, and what measures the gate: an emulation of half-precision sums
takes a minute and a half for one step at 512x512, four steps in plain bfloat16 a minute."""

_LONGER_FOR_HUGE_MODELS = 8.0
"""Times the budget of large ones: two pictures of four steps of Stable Diffusion 1.5 on every rung, six of one step."""

# In eager PyTorch a picture of the demo takes 28 ms alone and 17 ms among 8.
_PICTURES_AT_ONCE = 8


@dataclass(frozen=True)
class VerifyOptions:
    """How much to verify.

    Attributes:
        pictures: seeds compared on every rung.
        seed: seed of picture 0.
        large_model_budget_s: seconds that models beyond 100 M weights, times steps, should take (ImageNet-64: 1.2 s a
            picture and rung); fewer pictures, never under 8, are compared to keep to it, and the report says so.
            Beyond 800 M it is eight times as long, and two pictures are the fewest. None: all.
    """

    pictures: int = 64
    seed: int = 0
    large_model_budget_s: float | None = 30.0


@dataclass(frozen=True)
class Reference:
    """What an artefact must equal: the sampler, and its graph before rewrites.

    `expendable` says that the model is not needed after the reference pictures: its weights are then freed before a
    runtime loads its own copies, and the model can't be used again.
    """

    sampler: Sampler
    captured: CapturedGraph | CapturedLoop
    expendable: bool = False

    def exact(self) -> Runner:
        """A runner in float64."""
        if isinstance(self.captured, CapturedLoop):
            return ExactLoopRunner(self.captured)
        return ExactRunner(self.captured)

    def release(self) -> None:
        """Free the weights, if they are expendable."""
        if self.expendable:
            modules = self.sampler.model.modules
            drop_weights([*(p for m in modules for p in m.parameters()), *self.captured.weights.values()])


def draw_ahead(reference: Reference, options: VerifyOptions) -> Ahead[Truth] | None:
    """Begin the reference's pictures beside what comes next, where a core is free for them.

    A fork has one thread. Where it would be waited for, as it would be for large models and on many cores, it draws
    only as many as are run in any case; a large model's weights in float64 are for later. Of a huge model the fork
    would keep weights in memory that this process frees.
    """
    cost = reference.sampler.work
    if not can_fork() or threads() < 2 or cost > HUGE_MODEL:
        return None
    ladder = _ladder(reference, options)
    wanted = first_of(ladder.inputs, SETTLING_PICTURES) if ladder.settle_last else ladder.inputs
    if cost * threads() > _WAITED_FOR:
        wanted = first_of(wanted, LEAST_PICTURES)
    exact = ladder.exact if cost <= LARGE_MODEL else None
    return Ahead(partial(draw_truth, ladder.reference, wanted, exact, ladder.exact_pictures))


def verify_rungs(
    reference: Reference,
    rungs: tuple[Rung, ...],
    precision: str,
    numerics: Mapping[str, Any],
    options: VerifyOptions,
    progress: Progress,
    ahead: Ahead[Truth] | None = None,
) -> ParityReport:
    """Climb the ladder: PyTorch float32, float64 on a few pictures, then every rung of the target.

    Args:
        reference: what the rungs must equal.
        rungs: of the target.
        precision: of the file.
        numerics: what the manifest says, or will say, of how the file computes; a gate that was measured is in it.
        options: how much to run.
        progress: told about every run.
        ahead: what `draw_ahead` gave for the same reference and options.
    """
    ladder, work = _ladder(reference, options), reference.sampler.work
    large, huge = work > LARGE_MODEL, work > HUGE_MODEL
    budget_s = options.large_model_budget_s
    if huge and budget_s is not None:
        budget_s *= _LONGER_FOR_HUGE_MODELS
    yardstick = None if {"gate_db", "budget_db"} & set(numerics) else yardstick_for(reference, precision)
    # In float64 a picture of a huge model takes a minute, which only a gate is worth that is measured by it.
    exact = ladder.exact if not huge or (yardstick is not None and yardstick.open is None) else None
    report = climb(
        ladder.reference,
        rungs,
        ladder.inputs,
        gate_of(precision, numerics),
        text_gate=text_gate(precision),
        yardstick=yardstick,
        exact=exact,
        exact_pictures=ladder.exact_pictures,
        time_budget_s=budget_s if large else None,
        bound_pictures=(_BOUND_OF_HUGE_MODELS if huge else 2) if large else None,
        bound_all=huge,
        settle_early=options.large_model_budget_s is not None and not large,
        settle_last=ladder.settle_last,
        least_pictures=_LEAST_OF_HUGE_MODELS if huge else LEAST_PICTURES,
        wanted_pairs=None if huge else PAIRS,
        preview_pictures=max(8, reference.sampler.request.batch),
        drawn=None if ahead is None else ahead.result(),
        reference_done=reference.release if large else lambda: None,
        progress=progress.pictures,
    )
    reference.release()
    origin = str(numerics.get("gate_origin", report.gate_origin))
    return replace(report, gate_origin=origin)


def verify_alone(
    sampler: Sampler, stages: Sequence[Stage], rungs: Sequence[Rung], progress: Progress
) -> tuple[tuple[str, float | None], ...]:
    """Measure what each graph of an artefact in parts costs the pictures: see `alone.alone_db`.

    Args:
        sampler: the whole.
        stages: its parts in PyTorch, whose weights must still be there.
        rungs: the last one of each part's ladder.
        progress: told about the stages.

    Returns:
        Names of the parts and dB; empty for one part, and for large models, of which a picture takes seconds.
    """
    if len(stages) < 2 or sampler.work > LARGE_MODEL:
        return ()
    shipped = [Link(s.name, rung.open, s.signature.names) for s, rung in zip(stages, rungs, strict=True)]
    reference = [Link(s.name, partial(TorchRunner, s), s.signature.names) for s in stages]
    inputs = draw_inputs(sampler.signature, max(_ALONE_PICTURES, sampler.request.batch))
    return alone_db(shipped, reference, inputs, lambda name: progress.step(f"{name} alone"))


def yardstick_for(reference: Reference, precision: str) -> Yardstick | None:
    """Return what a precision's gate is measured by; None where its absolute gate stands.

    Where the sampler multiplies what the network answers, and so its rounding, no care reaches the gates of models that
    don't: one step of epsilon prediction loses 23 dB. There a file must be as good as the same precision plainly is in
    PyTorch: float16 20 dB better than bfloat16, float32 within 6 dB of float32's own distance from float64.
    """
    captured, work = reference.captured, reference.sampler.work
    if isinstance(captured, CapturedLoop) or captured.amplification <= AMPLIFYING:
        return None
    if precision == "fp32":
        return Yardstick("PyTorch float32 against float64", None, -_UNDER_OWN_ERROR_DB)
    plain = precision if precision in PLAIN_BITS else "bfloat16"
    margin = _FP16_OVER_BFLOAT16_DB if precision == "fp16" else 0.0
    open_it = partial(PlainRunner, captured, precision)
    pictures = LEAST_PICTURES if work > LARGE_MODEL else SETTLING_PICTURES
    if work > HUGE_MODEL:
        pictures = _BOUND_OF_HUGE_MODELS
    return Yardstick(f"plain {plain} in PyTorch", open_it, margin, pictures)


@dataclass(frozen=True)
class _Start:
    """The lower end of a ladder: what a reference is asked for, before there are rungs."""

    reference: Rung
    exact: Rung
    exact_pictures: int
    inputs: VerificationInputs
    settle_last: bool


def _ladder(reference: Reference, options: VerifyOptions) -> _Start:
    sampler, cost = reference.sampler, reference.sampler.work
    large = cost > LARGE_MODEL
    return _Start(
        Rung(
            "PyTorch float32",
            partial(TorchRunner, sampler),
            pictures_at_once=1 if large else _PICTURES_AT_ONCE,
        ),
        Rung("PyTorch float64", reference.exact),
        # More where they decide on the gate.
        8 if not large and yardstick_for(reference, "fp32") else 1 if cost > _COSTLY_MODEL else 4,
        draw_inputs(sampler.signature, options.pictures, options.seed),
        options.large_model_budget_s is not None and _COSTLY_MODEL < cost <= LARGE_MODEL,
    )


def verify_artifact(
    folder: Path,
    against: str | None,
    overrides: Mapping[str, str],
    options: VerifyOptions,
    progress: Progress,
    function: str | None = None,
    loaded: Callable[[ConsistencyModel], None] = lambda _model: None,
    *,
    weights: str | None = None,
    trust: bool = False,
    gone: Callable[[str], None] = lambda _why: None,
) -> dict[str, ParityReport]:
    """The ladder again on a written artefact: each of its graphs, or only the one named `function`.

    See `checkpoint_of` for the checkpoint; `loaded` is told about it before the work begins. Where it is not there any
    more, what ships is compared with the pictures in `golden/`, and `gone` is told why.

    Raises:
        CheckpointError: the artefact or the checkpoint is damaged, or they don't belong together.
        UsageError: there is no checkpoint to compare with, or no such graph.
    """
    whole = read_manifest(folder)
    names = whole.function_names if function is None else (function,)
    manifests = [whole.function(name) for name in names]
    progress.step("load")
    try:
        model = checkpoint_of(whole, against, overrides, weights=weights, trust=trust)
    except CheckpointGoneError as error:
        if any(m.golden is None for m in manifests):
            raise
        gone(f"{str(error).split(';')[0]}: compared with the pictures in golden/ only")
        return {n: _verify_golden(folder, m, progress) for n, m in zip(names, manifests, strict=True)}
    loaded(model)
    reports = {}
    for name, manifest in zip(names, manifests, strict=True):
        progress.step("verify" if len(names) == 1 else f"{name}: verify")
        last = manifest is manifests[-1]
        reports[name] = _verify_graph(folder, manifest, model, options, progress, expendable=last)
    return reports


def _verify_graph(
    folder: Path,
    manifest: Manifest,
    model: ConsistencyModel,
    options: VerifyOptions,
    progress: Progress,
    *,
    expendable: bool,
) -> ParityReport:
    sampler = sampler_of(model, manifest)
    reference = Reference(sampler, capture_sampler(sampler), expendable)
    rungs = artifact_rungs(folder, manifest)
    return verify_rungs(reference, rungs, manifest.precision, manifest.numerics, options, progress)


def _verify_golden(folder: Path, manifest: Manifest, progress: Progress) -> ParityReport:
    """What ships against the pictures that were recorded at the export."""
    assert manifest.golden is not None
    golden = Golden(folder, manifest.golden, manifest.signature)
    recorded = Rung("PyTorch's pictures in golden/", lambda: golden)
    shipped = artifact_rungs(folder, manifest)[-1:]
    return climb(recorded, shipped, golden.inputs, manifest.golden.gate_db, progress=progress.pictures)
