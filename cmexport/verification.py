"""Verify: the parity ladder on a file that is being written, or again on one that was."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from cmexport.artifact import Golden, Manifest, read_manifest
from cmexport.artifact.manifest import CheckpointRecord
from cmexport.checkpoints import load_checkpoint
from cmexport.checkpoints.choosing import UnknownWeightsError, chosen_weights
from cmexport.checkpoints.consent import remembered
from cmexport.checkpoints.own_module import module_file
from cmexport.demo import demo_checkpoint
from cmexport.errors import CheckpointError, UsageError
from cmexport.graph.capture import CapturedGraph
from cmexport.graph.exact import ExactRunner
from cmexport.graph.looping import CapturedLoop, ExactLoopRunner, capture_sampler
from cmexport.memory import drop_weights
from cmexport.model import ConsistencyModel, SampleRequest, Setting
from cmexport.parity.ahead import Ahead, can_fork
from cmexport.parity.gates import gate_for
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
from cmexport.progress import Progress
from cmexport.runner import Runner
from cmexport.sampling.methods import resolve
from cmexport.sampling.reference import TorchRunner
from cmexport.sampling.resolved import Sampler
from cmexport.sampling.schedules import levels_of
from cmexport.targets.registry import target_named
from cmexport.threads import threads

# Above this many weights, counted once for each step, a picture takes a second or more on a laptop's cores: the ladder
# then keeps to a time budget, and one picture in float64 must tell PyTorch's own error. Below it all pictures are run,
# however slow the machine.
_LARGE_MODEL = 100_000_000

# Above this many, 64 pictures on all rungs take longer than making the file (8 steps of the demo: 25 s against 10): 16
# are run where they leave no doubt.
_COSTLY_MODEL = 30_000_000

# In eager PyTorch a picture of the demo takes 28 ms alone and 17 ms among 8.
_PICTURES_AT_ONCE = 8


class CheckpointGoneError(UsageError):
    """The checkpoint of an artefact is not where it was, or is another one now."""


@dataclass(frozen=True)
class VerifyOptions:
    """How much to verify.

    Attributes:
        pictures: seeds compared on every rung.
        seed: seed of picture 0.
        large_model_budget_s: seconds that models beyond 100 M weights, times steps, should take (ImageNet-64: 1.2 s a
            picture and rung); fewer pictures, never under 8, are compared to keep to it, and the report says so.
            None: all.
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
        """A runner in float64; a large model is released when it closes, since the ladder runs it once."""
        release = self.release if self.sampler.work > _LARGE_MODEL else lambda: None
        if isinstance(self.captured, CapturedLoop):
            return ExactLoopRunner(self.captured, release)
        return ExactRunner(self.captured, release)

    def release(self) -> None:
        """Free the weights, if they are expendable."""
        if self.expendable:
            modules = self.sampler.model.modules
            drop_weights([*(p for m in modules for p in m.parameters()), *self.captured.weights.values()])


def draw_ahead(reference: Reference, options: VerifyOptions) -> Ahead[Truth] | None:
    """Begin the reference's pictures beside what comes next, where a core is free for them.

    Of a large model only as many as are run in any case; float64 weights of its own are for later.
    """
    if not can_fork() or threads() < 2:
        return None
    ladder = _ladder(reference, options)
    if reference.sampler.work > _LARGE_MODEL:
        least = first_of(ladder.inputs, LEAST_PICTURES)
        return Ahead(partial(draw_truth, ladder.reference, least, None, 0))
    first = first_of(ladder.inputs, SETTLING_PICTURES) if ladder.settle_last else ladder.inputs
    return Ahead(partial(draw_truth, ladder.reference, first, ladder.exact, ladder.exact_pictures))


def verify_rungs(
    reference: Reference,
    rungs: tuple[Rung, ...],
    gate_db: float,
    options: VerifyOptions,
    progress: Progress,
    ahead: Ahead[Truth] | None = None,
) -> ParityReport:
    """Climb the ladder: PyTorch float32, float64 on a few pictures, then every rung of the target.

    `ahead` is what `draw_ahead` gave for the same reference and options.
    """
    ladder, large = _ladder(reference, options), reference.sampler.work > _LARGE_MODEL
    report = climb(
        ladder.reference,
        rungs,
        ladder.inputs,
        gate_db,
        exact=ladder.exact,
        exact_pictures=ladder.exact_pictures,
        time_budget_s=options.large_model_budget_s if large else None,
        bound_pictures=2 if large else None,
        settle_early=options.large_model_budget_s is not None and not large,
        settle_last=ladder.settle_last,
        preview_pictures=max(8, reference.sampler.request.batch),
        drawn=(lambda: None) if ahead is None else ahead.result,
        progress=progress.pictures,
    )
    reference.release()
    return report


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
    large = cost > _LARGE_MODEL
    return _Start(
        Rung(
            "PyTorch float32",
            partial(TorchRunner, sampler),
            pictures_at_once=1 if large else _PICTURES_AT_ONCE,
        ),
        Rung("PyTorch float64", reference.exact),
        1 if cost > _COSTLY_MODEL else 4,
        draw_inputs(sampler.signature, options.pictures, options.seed),
        options.large_model_budget_s is not None and _COSTLY_MODEL < cost <= _LARGE_MODEL,
    )


def gate_of(precision: str, numerics: Mapping[str, object]) -> float:
    """The gate of a precision in dB; for weights of mixed widths, the budget that chose them."""
    budget = numerics.get("budget_db")
    return float(budget) if isinstance(budget, int | float) else gate_for(precision)


def lowered_files(manifest: Manifest) -> tuple[str, ...]:
    """The files of all graphs, relative to the artefact's folder, the one to open first."""
    return tuple(dict.fromkeys(path for graph in manifest.graphs for path in graph.files))


def artifact_rungs(folder: Path, manifest: Manifest) -> tuple[Rung, ...]:
    """The ladder of a written artefact."""
    files = lowered_files(manifest)
    session = {"ep": manifest.session.ep, **manifest.session.options}
    return target_named(manifest.target).rungs(folder, files, session)


def request_of(manifest: Manifest) -> SampleRequest:
    """The request an artefact was exported for."""
    signature = manifest.signature
    return SampleRequest(
        sigmas=levels_of(manifest.sampling.sigmas),
        label=manifest.label,
        batch=signature.batch,
        output="uint8" if signature.output.is_bytes else "float",
        task=manifest.task,
        patch=manifest.patch,
        schedule=manifest.sampling.schedule,
        sampler=manifest.sampling.sampler,
    )


def sampler_of(model: ConsistencyModel, manifest: Manifest) -> Sampler:
    """What an artefact was exported from, out of its checkpoint.

    Raises:
        CheckpointError: they don't belong together.
    """
    sampler = resolve(model, request_of(manifest))
    if not sampler.signature.takes_as(border := manifest.signature):
        raise CheckpointError(
            f"{model.source.path}: this checkpoint doesn't fit the artefact, whose inputs are "
            f"{', '.join(f'{i.name} {i.shape}' for i in border.inputs)}"
        )
    return sampler


def checkpoint_of(
    manifest: Manifest,
    against: str | None,
    overrides: Mapping[str, str],
    *,
    weights: str | None = None,
    trust: bool = False,
) -> ConsistencyModel:
    """The checkpoint to verify an artefact against, read with the constants and weights it was exported with.

    Args:
        manifest: of the artefact.
        against: a checkpoint to take instead of the recorded one.
        overrides: `--set` fields.
        weights: which set of weights, instead of the recorded one.
        trust: let a pickle, or a Python module that the manifest names, run its own code.

    Raises:
        CheckpointGoneError: none was given, and the recorded one is not there any more.
        UsageError: it is code that was not named.
        CheckpointError: the file can't be used.
    """
    record = manifest.checkpoint
    # What the user set then is set again; what was inferred or defaulted is found again.
    settings = {s.name: _text(s.value) for s in record.settings if s.origin.startswith("--set")} | dict(overrides)
    wanted = weights or chosen_weights(record.settings)
    # Guesses are kept: another version may guess otherwise, and the file holds the reading of then.
    guesses = tuple(a.setting for a in manifest.assumed if a.name not in settings)
    as_then = {**settings, **{guess.name: guess.text for guess in guesses}}
    if against is not None:
        try:
            model = load_checkpoint(against, settings, trust=trust, weights=wanted)
        except UnknownWeightsError:
            if weights is not None:
                raise
            # Another checkpoint, whose sets have names of their own.
            return load_checkpoint(against, settings, trust=trust)
        if model.source.sha256 != record.sha256 or _agrees(model, guesses):
            return model
        return _as_guessed(load_checkpoint(against, as_then, trust=trust, weights=wanted), guesses)
    if record.reference:
        candidates: tuple[str | Path, ...] = (_allowed(record.reference, trust),)
    else:
        candidates = tuple(p for p in (Path(record.path), demo_checkpoint()) if _may_be(p, record))
    for candidate in candidates:
        model = load_checkpoint(candidate, as_then, trust=trust, weights=wanted)
        if model.source.sha256 == record.sha256:
            return _as_guessed(model, guesses)
    changed = bool(record.reference) or Path(record.path).exists()
    where = record.reference or record.path
    gone = f"at {where} is another one than at the export" if changed else f"is not at {where} any more"
    raise CheckpointGoneError(
        f"the checkpoint {record.file} {gone}; name it: --against CKPT\n"
        "or compare with recorded pictures: --inputs x.npz --expected y.npz"
    )


def _agrees(model: ConsistencyModel, guesses: Sequence[Setting]) -> bool:
    found = {s.name: s.value for s in model.settings}
    return all(found.get(guess.name) == guess.value for guess in guesses)


def _as_guessed(model: ConsistencyModel, guesses: Sequence[Setting]) -> ConsistencyModel:
    """The model, whose recorded guesses are guesses still: loading took them for `--set`."""
    still = {guess.name: guess for guess in guesses}
    return replace(model, settings=tuple(still.get(s.name, s) for s in model.settings))


def _may_be(candidate: Path, record: CheckpointRecord) -> bool:
    """Whether reading a path is worth it: a file of another size is another file; folders are read."""
    if module_file(str(candidate)) is not None:
        return False  # A path that reads as module.py:build would be run.
    return candidate.is_dir() or (candidate.is_file() and candidate.stat().st_size == record.bytes)


def _allowed(reference: str, trust: bool) -> str:
    """The reference itself, unless it is code that nobody here asked to run."""
    module = module_file(reference)
    if module is None or trust or remembered(module):
        return reference
    raise UsageError(
        f"made from {reference}, which is Python code, and a manifest is no reason to run it;\n"
        f"name it: --against {reference}, or --trust-checkpoint"
    )


def _text(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


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
    gate = gate_of(manifest.precision, manifest.numerics)
    return verify_rungs(reference, artifact_rungs(folder, manifest), gate, options, progress)


def _verify_golden(folder: Path, manifest: Manifest, progress: Progress) -> ParityReport:
    """What ships against the pictures that were recorded at the export."""
    assert manifest.golden is not None
    golden = Golden(folder, manifest.golden, manifest.signature)
    recorded = Rung("PyTorch's pictures in golden/", lambda: golden)
    shipped = artifact_rungs(folder, manifest)[-1:]
    return climb(recorded, shipped, golden.inputs, manifest.golden.gate_db, progress=progress.pictures)
