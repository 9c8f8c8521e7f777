"""The main job: a loaded checkpoint becomes a verified artefact, or nothing at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from cmexport import __version__
from cmexport.artifact import (
    Manifest,
    Replacement,
    Subject,
    artifact_name,
    describe_file,
    metadata_props,
    reject_name,
    staged_folder,
    write_atomically,
    write_golden,
    write_manifest,
    write_preview,
)
from cmexport.artifact.frontier import frontier_points, frontier_svg
from cmexport.artifact.replacing import prompt_facts
from cmexport.describing import describe, function_record, numerics_of, role_of, wording_of
from cmexport.errors import UsageError
from cmexport.graph.capture import CapturedGraph, RewriteReport, capture, capture_stage
from cmexport.graph.looping import capture_loop, rewrite_loop
from cmexport.graph.rewrites import REWRITES
from cmexport.graph.rewriting import Rewrite, apply_rewrites, select
from cmexport.memory import return_free_memory
from cmexport.model import ConsistencyModel, SampleRequest
from cmexport.naming import run_of_steps
from cmexport.parity.ahead import Ahead
from cmexport.parity.ladder import ParityReport, Truth
from cmexport.progress import Progress
from cmexport.recorded import graph_rungs
from cmexport.sampling.gamma import gamma_of
from cmexport.sampling.methods import resolve
from cmexport.sampling.resolved import Sampler
from cmexport.sampling.stages import Stage, stages_of
from cmexport.sampling.transforms import transform_name
from cmexport.signature import Tokens
from cmexport.targets.base import LoweredModel
from cmexport.targets.info import LoweringOptions
from cmexport.targets.registry import INFOS, target_info, target_named
from cmexport.tokenizer import write_tokenizer
from cmexport.verification import Reference, VerifyOptions, draw_ahead, verify_alone, verify_rungs


@dataclass(frozen=True)
class ExportOptions:
    """A whole export: target, lowering, verification (None skips it).

    `expendable` frees the model's weights once the reference pictures are drawn: for callers that export once and
    want the smallest memory, as the command line does. `overwrite` replaces whatever folder stands in the artefact's
    place; without it only an older export of the same checkpoint with the same settings is. `self_check` is what trying
    other readings of a guessed checkpoint found, for the manifest.

    Raises:
        UsageError: no such target, or `lowering` is another one's; a plain `LoweringOptions` is anyone's.
    """

    target: str = "onnx"
    lowering: LoweringOptions = field(default_factory=LoweringOptions)
    verify: VerifyOptions | None = field(default_factory=VerifyOptions)
    expendable: bool = False
    overwrite: bool = False
    self_check: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        own = target_info(self.target).options
        if type(self.lowering) is LoweringOptions:
            object.__setattr__(self, "lowering", own(**vars(self.lowering)))
        if type(self.lowering) is not own:
            raise UsageError(f"{self.target}: takes {own.__name__}, not {type(self.lowering).__name__}")


@dataclass(frozen=True)
class ExportResult:
    """What was written: the folder (named `*.rejected` when parity failed), its manifest, each graph's parity report.

    `parities` is empty when verification was switched off. `replaced` says in words what stood there before.
    """

    folder: Path
    manifest: Manifest
    parities: Mapping[str, ParityReport]
    replaced: str = ""

    @property
    def parity(self) -> ParityReport | None:
        """The report of the first graph that failed, else of the first one."""
        reports = list(self.parities.values())
        return next((r for r in reports if not r.passed), reports[0] if reports else None)


def export_model(
    model: ConsistencyModel,
    request: SampleRequest,
    options: ExportOptions,
    out: Path,
    progress: Progress | None = None,
) -> ExportResult:
    """Capture, rewrite, lower, verify and write one artefact under `out`.

    The folder appears whole or not at all. When a parity gate fails the artefact is kept under the name
    `<folder>.rejected`; the caller decides on the exit code.

    Raises:
        UsageError: an option contradicts the model, or what stands in the artefact's place is not an older export of
            the same (see `ExportOptions.overwrite`).
        BackendError: a library is missing or refuses the graph.
        OutputError: `out` can't be written.
    """
    return export_functions(model, (request,), options, out, progress)


def export_functions(
    model: ConsistencyModel,
    requests: Sequence[SampleRequest],
    options: ExportOptions,
    out: Path,
    progress: Progress | None = None,
) -> ExportResult:
    """One artefact of several runs, one per request and named after its task or its steps; else as `export_model`.

    The result's manifest lists them.

    Raises:
        UsageError, BackendError, OutputError: see `export_model`; also two requests of the same task, unless they have
            different steps and are packaged in parts.
    """
    tell = progress or Progress()
    samplers = _named([resolve(model, request) for request in requests], options)
    final = out / artifact_name(next(iter(samplers.values())).name, options.target, options.lowering.precision)
    replacement = Replacement(_subject(samplers, options), options.overwrite)
    if options.verify is not None:
        # A failed gate is known hours later: said now, not then.
        replacement.check(reject_name(final))
    with staged_folder(final, replacement.check) as staged, ExitStack() as processes:

        def begin(reference: Reference) -> Ahead[Truth] | None:
            # Forking is for a process of our own; several graphs would have several forks on the one free core.
            if options.verify is None or len(samplers) > 1 or not options.expendable:
                return None
            ahead = draw_ahead(reference, options.verify)
            if ahead is not None:
                processes.callback(ahead.close)
            return ahead

        drafts = _lower(samplers, options, staged.path, tell, begin)
        return_free_memory()
        manifest, reports = _verify_and_describe(drafts, options, staged.path, tell)
        write_manifest(staged.path, manifest)
        if not all(report.passed for report in reports.values()):
            staged.reject()
    return ExportResult(folder=staged.final, manifest=manifest, parities=reports, replaced=replacement.replaced)


def _named(samplers: Sequence[Sampler], options: ExportOptions) -> dict[str, Sampler]:
    """Name the runs of an artefact: by their tasks, or by their steps where these are all that differs."""
    tasks, steps = [s.request.task for s in samplers], [s.plan.steps for s in samplers]
    distinct = len(set(steps)) == len(steps)
    staged = getattr(options.lowering, "packaging", "one") != "one"
    if len(set(tasks)) == 1 < len(steps) and (distinct or staged):
        listed = ",".join(map(str, steps))
        if not staged:
            raise UsageError(f"--steps {listed}: several at once share their other parts; add --packaging staged")
        if not distinct:
            raise UsageError(f"--steps {listed}: one of them comes twice")
        return {run_of_steps(k): sampler for k, sampler in zip(steps, samplers, strict=True)}
    if twice := [name for name in tasks if tasks.count(name) > 1]:
        raise UsageError(f"--task {','.join(tasks)}: {twice[0]} comes twice")
    return dict(zip(tasks, samplers, strict=True))


def _subject(samplers: Mapping[str, Sampler], options: ExportOptions) -> Subject:
    """What tells this export from others that would have the same name."""

    def graph(sampler: Sampler) -> dict[str, Any]:
        request, plan = sampler.request, sampler.plan
        return {
            "steps": plan.steps,
            "sigmas": plan.sigmas,
            "label": "an input" if request.label is None else request.label,
            "patch": request.patch,
            "batch": request.batch,
            "output": request.output,
            "sampler": request.sampler,
            "eta": request.eta,
            "gamma": gamma_of(request),
            "levels_of": dict(request.levels_of),
            "output_transform": transform_name(sampler.model, request),
            **prompt_facts(None if (wording := wording_of(sampler)) is None else wording.model_dump(mode="json")),
            "ep": getattr(options.lowering, "ep", None),
            "packaging": getattr(options.lowering, "packaging", "one"),
        }

    model = next(iter(samplers.values())).model
    settings = {s.name: s.value for s in model.settings}
    return Subject(model.source.sha256, {name: graph(s) for name, s in samplers.items()}, settings, __version__)


@dataclass(frozen=True)
class _Draft:
    """A sampler that is written, as one graph or several, but not verified: the reference has it before rewrites."""

    reference: Reference
    account: tuple[RewriteReport, ...]
    graphs: Mapping[str, LoweredModel]
    ahead: Ahead[Truth] | None
    stages: tuple[Stage, ...] = ()

    @property
    def sampler(self) -> Sampler:
        """What was exported."""
        return self.reference.sampler

    @property
    def files(self) -> tuple[str, ...]:
        """Files of its graphs, each once, the one to open first before the others."""
        return tuple(dict.fromkeys(path for lowered in self.graphs.values() for path in lowered.files))


Begin = Callable[[Reference], Ahead[Truth] | None]
"""Begins a reference's pictures beside what comes next, if that is worth it."""


def _lower(
    samplers: Mapping[str, Sampler], options: ExportOptions, folder: Path, tell: Progress, begin: Begin
) -> dict[str, _Draft]:
    """All graphs of the artefact, written, by run."""
    target, lowering = target_named(options.target), options.lowering
    named = select((*REWRITES, *target.own_rewrites), lowering.rewrites)
    rewrites = [*(r for r in REWRITES if r in named), *target.rewrites_for(lowering)]
    packaging = getattr(lowering, "packaging", "one")
    (first, sampler), *others = samplers.items()
    if packaging != "one" and (sampler.plan.looped or any(s.request.task != sampler.request.task for _, s in others)):
        raise UsageError(f"--packaging {packaging}: for one task and unrolled steps only")
    prefix = ""
    accounts: dict[str, tuple[RewriteReport, ...]] = {}
    begun: dict[str, tuple[Reference, Ahead[Truth] | None]] = {}

    def step(name: str) -> None:
        tell.step(prefix + name)

    def graph(run: str, stage: Stage) -> CapturedGraph:
        nonlocal prefix
        sampler = samplers[run]
        prefix = f"{stage.name}: " if several else ""
        step("capture")
        captured = capture_stage(stage)
        if run not in begun:
            reference = Reference(sampler, captured if stage.sampler is sampler else capture(sampler))
            begun[run] = reference, begin(reference)
        rewritten = apply_rewrites(captured, rewrites, step)
        accounts[stage.name] = rewritten.rewrites
        return rewritten

    if sampler.plan.looped:
        step("capture")
        return {first: _lower_loop(sampler, rewrites, options, folder, step, begin)}
    # Names of Core ML's functions are identifiers: no hyphen.
    runs = {name: stages_of(s, packaging, f"_{s.plan.steps}" if others else "") for name, s in samplers.items()}
    # Parts of the same name are the same part: the text encoder and the decoder do not depend on the steps.
    graphs = {stage.name: partial(graph, run, stage) for run, stages in runs.items() for stage in stages}
    several = len(graphs) > 1
    lowered = target.lower(graphs, lowering, folder, step)
    # Folded weights have ended here: they would stay in memory while the ladder opens its runtimes.
    drafts = {}
    for run, stages in runs.items():
        reference, ahead = begun[run]
        made = {stage.name: lowered[stage.name] for stage in stages}
        account = [report for name in made for report in (*accounts[name], *lowered[name].rewrites)]
        drafts[run] = _Draft(reference, tuple(account), made, ahead, stages)
    return drafts


def _lower_loop(
    sampler: Sampler,
    rewrites: Sequence[Rewrite],
    options: ExportOptions,
    folder: Path,
    step: Callable[[str], None],
    begin: Begin,
) -> _Draft:
    target, name = target_named(options.target), sampler.request.sampler
    known = target_info(options.target).loop_precisions
    if not known:
        able = " and ".join(f"`cmexport {info.name}`" for info in INFOS.values() if info.loop_precisions)
        raise UsageError(f"--sampler {name}: not for {options.target}; {able} writes it")
    if (precision := options.lowering.precision) not in known:
        raise UsageError(
            f"--sampler {name}: {options.target} has it in {' and '.join(known)}, not in {precision}; "
            "integers and their plans are for one and few steps"
        )
    captured = capture_loop(sampler)
    reference = Reference(sampler, captured)
    ahead = begin(reference)
    rewritten = rewrite_loop(captured, rewrites, step)
    lowered = target.lower_loop(rewritten, options.lowering, folder, step)
    return _Draft(reference, rewritten.rewrites, {sampler.request.task: lowered}, ahead)


def _verify_and_describe(
    drafts: Mapping[str, _Draft], options: ExportOptions, folder: Path, tell: Progress
) -> tuple[Manifest, dict[str, ParityReport]]:
    """The manifest, and the parity report of every graph that was verified, by name."""
    target = target_named(options.target)
    manifests: dict[str, Manifest] = {}
    reports: dict[str, ParityReport] = {}
    several = len(drafts) > 1
    # A file may then hold several graphs under their names.
    shared = sum(len(draft.graphs) for draft in drafts.values()) > 1
    for index, (name, draft) in enumerate(drafts.items()):
        if options.verify is not None:
            tell.step(f"{name}: verify" if several else "verify")
            expendable = options.expendable and index == len(drafts) - 1
            parts = [(n, g.files, g.session, g.signature) for n, g in draft.graphs.items()]
            last = [graph_rungs(target, folder, [part], shared)[-1] for part in parts]
            # Before the ladder, which frees the weights.
            alone = verify_alone(draft.sampler, draft.stages, last, tell) if len(parts) > 1 else ()
            report = verify_rungs(
                replace(draft.reference, expendable=expendable),
                graph_rungs(target, folder, parts, shared),
                options.lowering.precision,
                numerics_of(draft.graphs),
                options.verify,
                tell,
                draft.ahead,
            )
            reports[name] = replace(report, alone_db=alone)
        manifests[name] = describe(
            draft.sampler,
            draft.graphs,
            draft.account,
            options.target,
            options.lowering.precision,
            reports.get(name),
            run=name,
            self_check=options.self_check,
        )
    previews = {name: "preview.png" if i == 0 else f"preview-{name}.png" for i, name in enumerate(reports)}
    # Only metadata is appended after verification; stamping checks the file it leaves.
    stamped: set[tuple[str, ...]] = set()
    for name, draft in drafts.items():
        for lowered in draft.graphs.values():
            if lowered.files not in stamped:
                target.stamp(folder, lowered.files, metadata_props(manifests[name]))
                stamped.add(lowered.files)
    for name, preview in previews.items():
        pictures, sampler = reports[name].preview, drafts[name].sampler
        write_preview(folder / preview, pictures.reference, pictures.candidate, names=_names(sampler))
    for name, report in reports.items():
        border = manifests[name].signature.drawn_as(drafts[name].sampler.signature)
        golden = write_golden(folder, name, border, report)
        manifests[name] = manifests[name].model_copy(update={"golden": golden})
    frontiers = _write_frontiers(folder, manifests)
    tokenizer = _write_tokenizer(folder, [draft.sampler for draft in drafts.values()])
    roles = {
        path: role_of(path, index) for draft in drafts.values() for index, path in enumerate(draft.files)
    } | dict.fromkeys(previews.values(), "preview")
    roles |= dict.fromkeys(frontiers.values(), "frontier") | dict.fromkeys(tokenizer, "tokenizer")
    golden_files = {n: (m.golden.inputs, m.golden.expected) for n, m in manifests.items() if m.golden is not None}
    roles |= dict.fromkeys(chain(*golden_files.values()), "golden")
    manifest = manifests[next(iter(drafts))].model_copy(
        update={"files": tuple(describe_file(folder, folder / path, role) for path, role in roles.items())}
    )
    if several:
        more = {n: (*(p[n] for p in (previews, frontiers) if n in p), *golden_files.get(n, ())) for n in manifests}
        functions = tuple(function_record(n, m, (*drafts[n].files, *more[n])) for n, m in manifests.items())
        graphs = tuple({graph.name: graph for m in manifests.values() for graph in m.graphs}.values())
        runs = {name: runs for m in manifests.values() for name, runs in m.runs.items()}
        manifest = manifest.model_copy(update={"functions": functions, "graphs": graphs, "runs": runs})
    return manifest, reports


def _names(sampler: Sampler) -> tuple[str, ...]:
    """What each class is called whose picture parity drew, in turn."""
    baked, labels = sampler.request.label, sampler.model.labels
    return labels if baked is None or not labels else (labels[baked],)


def _write_tokenizer(folder: Path, samplers: Sequence[Sampler]) -> list[str]:
    """Write what makes tokens of prompts, if a graph takes any; return the files' paths."""
    tokenizer = samplers[0].model.tokenizer
    if tokenizer is None or not any(isinstance(i.law, Tokens) for s in samplers for i in s.signature.inputs):
        return []
    write_tokenizer(folder / "tokenizer", tokenizer)
    return [path.relative_to(folder).as_posix() for path in sorted((folder / "tokenizer").iterdir())]


def _write_frontiers(folder: Path, manifests: Mapping[str, Manifest]) -> dict[str, str]:
    """A picture of what a search under a budget measured, for every graph that had one; file names by graph."""
    written = {}
    for index, (name, manifest) in enumerate(manifests.items()):
        plan = manifest.numerics
        if points := frontier_points(plan):
            written[name] = "frontier.svg" if index == 0 else f"frontier-{name}.svg"
            write_atomically(folder / written[name], frontier_svg(points, "of the float32 file's").encode())
    return written
