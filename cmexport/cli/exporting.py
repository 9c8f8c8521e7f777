"""`cmexport TARGET [CKPT]`: the verbs that export, each made from what its target says of itself."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from cmexport.checkpoints.consent import remember
from cmexport.checkpoints.own_module import module_file
from cmexport.cli import console
from cmexport.cli import options as o
from cmexport.cli.assumed import check_assumed
from cmexport.cli.budgets import check_latency, show_frontier
from cmexport.cli.requests import (
    build_requests,
    chosen_checkpoint,
    levels_asked,
    listed_levels,
    open_checkpoint,
    tuned_sigmas,
    verify_options,
    wording,
)
from cmexport.cli.showing import show_export, show_kept, show_ranges
from cmexport.errors import UsageError
from cmexport.exporting import ExportOptions, export_functions
from cmexport.labels import named
from cmexport.targets.info import LoweringOptions, Option, TargetInfo
from cmexport.targets.registry import INFOS, target_named
from cmexport.threads import use_threads


def export_verb(info: TargetInfo) -> Callable[..., None]:
    """The command that exports to a target: what all take, its flags of precision, its own options."""

    def command(**given: Any) -> None:
        own = {name: given.pop(name) for name in _own(info)}
        _export(info, own, batch=own.get("batch", given.pop("batch", 1)), **given)

    command.__doc__ = info.help
    command.__signature__ = inspect.Signature(list(_parameters(info).values()))  # type: ignore[attr-defined]
    return command


def _own(info: TargetInfo) -> dict[str, inspect.Parameter]:
    """Parameters of a target alone: flags of its precisions, then its options; last, flags that only others have.

    The latter are not shown: they are there to be refused with the name of a target that has them.
    """
    flags = {name: Option(name, o.PRECISION_FLAGS[name]) for name in info.precisions if name in o.PRECISION_FLAGS}
    found = {}
    for name, option in {**flags, **info.by_name}.items():
        default = option.typed if option.parse is not None else getattr(info.options(), option.field, False)
        spelled = typer.Option(f"--{name.replace('_', '-')}", metavar=option.metavar, help=option.help)
        kind: Any = Annotated[option.kind, spelled]
        found[name] = inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
    for name in o.PRECISION_FLAGS:
        unshown: Any = Annotated[bool, typer.Option(f"--{name}", hidden=True)]
        spare = inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=unshown)
        found.setdefault(name, spare)
    return found


def _parameters(info: TargetInfo) -> dict[str, inspect.Parameter]:
    shared = dict(inspect.signature(_export, eval_str=True).parameters)
    del shared["info"], shared["own"]
    for name, text in info.help_of.items():
        kind, declared = get_args(shared[name].annotation)
        changed = copy(declared)
        changed.help = text
        shared[name] = shared[name].replace(annotation=Annotated[kind, changed])
    own = _own(info)
    head = {name: shared.pop(name) for name in ("checkpoint", "demo", "out")}
    # An option of the target's that all have stands in the place of theirs.
    shared |= {name: own.pop(name) for name in list(own) if name in shared}
    flags = {name: own.pop(name) for name in list(own) if name in o.PRECISION_FLAGS}
    return {**head, **flags, "precision": shared.pop("precision"), **own, **shared}


def _lowering(info: TargetInfo, own: Mapping[str, Any], precision: str | None, rewrites: str) -> LoweringOptions:
    """What was asked of the target, from its options as typed.

    Raises:
        UsageError: two precisions, one that it doesn't have, or a value that is none.
        CheckpointError: a file of a plan is damaged.
    """
    given = {name: option for name, option in info.by_name.items() if own[name] is not None}
    flags = {name: own[name] for name in o.PRECISION_FLAGS}
    flags |= {option.implies: True for option in given.values() if option.implies is not None}
    elsewhere = {name: other.precisions for name, other in INFOS.items()}
    chosen = o.choose_precision(precision, flags, info.precisions, elsewhere)
    values = {opt.field: own[name] if opt.parse is None else opt.parse(own[name]) for name, opt in given.items()}
    return info.options(precision=chosen, rewrites=rewrites, **values)


def _output(info: TargetInfo, output: str) -> str:
    if output not in info.outputs:
        known = {meaning: word for word, meaning in info.outputs.items()}.values()
        raise UsageError(f"--output {output}: known are {' and '.join(known)}")
    return info.outputs[output]


def _export(
    info: TargetInfo,
    own: Mapping[str, Any],
    *,
    checkpoint: o.Checkpoint = None,
    demo: o.Demo = None,
    out: o.Out = Path("out"),
    precision: o.Precision = None,
    steps: o.SeveralSteps = None,
    timesteps: o.Timesteps = None,
    levels: o.Levels = None,
    sigmas: o.Sigmas = None,
    sampler: o.Sampler = "consistency",
    eta: o.Eta = None,
    gamma: o.Gamma = None,
    strength: o.Strength = None,
    task: o.Tasks = "generate",
    patch: o.Patch = None,
    label: o.Label = None,
    labels: o.Labels = None,
    prompt: o.Prompt = None,
    prompts: o.Prompts = None,
    condition: o.ConditionForm = "tokens",
    guidance: o.Guidance = None,
    guidance_input: o.GuidanceInput = False,
    calibration_prompts: o.CalibrationPrompts = None,
    levels_of: o.LevelsOf = None,
    output_transform: o.OutputTransform = None,
    batch: o.Batch = 1,
    output: o.Output = "float",
    rewrites: o.Rewrites = "all",
    size: o.Size = None,
    decoder: o.Decoder = None,
    loras: o.Lora = None,
    assignments: o.Set = None,
    weights: o.Weights = None,
    strict: o.Strict = False,
    trust: o.Trust = False,
    seeds: o.Seeds = None,
    no_verify: o.NoVerify = False,
    threads: o.Threads = None,
    overwrite: o.Overwrite = False,
    as_json: o.AsJson = False,
) -> None:
    """Load, export and verify, with progress; the arguments are the options as typed, `own` those of the target.

    Raises:
        CmexportError: see `requests.open_checkpoint`, `requests.build_requests` and `exporting.export_functions`.
    """
    use_threads(threads)
    checkpoint = chosen_checkpoint(checkpoint, demo)
    lowering = _lowering(info, own, precision, rewrites)
    batch = next(iter(getattr(lowering, "batches", ())), batch)
    target = target_named(info.name)
    target.rewrites_for(lowering)  # a wrong option or a missing library is said before a checkpoint is read
    output = _output(info, output)
    schedules = [o.ScheduleText(count, timesteps, levels, sigmas, strength) for count in o.step_counts(steps)]
    task = o.task_of(task, strength)
    worded = wording(prompt, prompts, condition, guidance, guidance_input, calibration_prompts)
    with console.working("load") as progress:
        tuned = tuned_sigmas(checkpoint)
        model = open_checkpoint(
            *(checkpoint, o.with_size(assignments, size, decoder, loras)),
            trust=trust,
            weights=weights,
            strict=strict,
            levels_of=levels_asked(*schedules, tasks=task, tuned=tuned, sampler=sampler),
        )
        if (module := module_file(model.source.reference)) is not None:
            remember(module)
        if labels is not None:
            model = replace(model, labels=named(labels, model.classes))
        requests = build_requests(
            *(model, schedules, label, batch, output),
            tasks=task,
            patch=patch,
            tuned=tuned,
            sampler=sampler,
            worded={
                **worded,
                "eta": eta,
                "gamma": gamma,
                "levels_of": listed_levels(levels_of),
                "output_transform": output_transform,
            },
        )
        progress.step("self-check")
        options = ExportOptions(
            target=info.name,
            lowering=lowering,
            verify=None if no_verify else verify_options(seeds),
            expendable=True,
            overwrite=overwrite,
            self_check=check_assumed(model),
        )
        result = export_functions(model, requests, options, out, progress)
    if result.replaced:
        console.remark(f"{result.folder}: replaced {result.replaced}")
    show_frontier(result, as_json)
    show_ranges(result.manifest)
    if getattr(lowering, "keep_fp32", ()):
        show_kept(result.manifest)
    several = len(result.manifest.function_names) > 1
    for name in result.manifest.function_names:
        graph = result.manifest.function(name)
        paths = tuple(file.path for file in graph.files)
        for line in target.remarks(result.folder, paths, graph.session.options):
            console.say(f"{name}: {line}" if several else line, quiet=as_json)
    show_export(result, as_json)
    check_latency(result)
