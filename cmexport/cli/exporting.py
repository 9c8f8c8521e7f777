"""What every exporting verb does once it knows its precision and its target's options."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cmexport.checkpoints.consent import remember
from cmexport.checkpoints.own_module import module_file
from cmexport.cli import console
from cmexport.cli.assumed import check_assumed
from cmexport.cli.options import ScheduleText
from cmexport.cli.requests import build_requests, levels_asked, open_checkpoint, tuned_sigmas, verify_options
from cmexport.exporting import ExportOptions, ExportResult, export_functions
from cmexport.labels import named
from cmexport.targets.base import LoweringOptions


def export_checkpoint(
    checkpoint: str | None,
    out: Path,
    target: str,
    lowering: LoweringOptions,
    schedule: ScheduleText,
    *,
    tasks: str,
    patch: int | None,
    label: str | None,
    batch: int,
    output: str,
    assignments: list[str] | None,
    weights: str | None = None,
    trust: bool,
    seeds: int | None,
    no_verify: bool,
    strict: bool,
    sampler: str = "consistency",
    overwrite: bool = False,
    labels: str | None = None,
) -> ExportResult:
    """Load, export and verify, with progress; the arguments are the options as typed.

    Raises:
        CmexportError: see `requests.open_checkpoint`, `requests.build_requests` and `export.export_functions`.
    """
    with console.working("load") as progress:
        tuned = tuned_sigmas(checkpoint)
        model = open_checkpoint(
            *(checkpoint, assignments),
            trust=trust,
            weights=weights,
            strict=strict,
            levels_of=levels_asked(schedule, tasks=tasks, tuned=tuned, sampler=sampler),
        )
        if (module := module_file(model.source.reference)) is not None:
            remember(module)
        if labels is not None:
            model = replace(model, labels=named(labels, model.classes))
        requests = build_requests(
            *(model, schedule, label, batch, output),
            tasks=tasks,
            patch=patch,
            tuned=tuned,
            sampler=sampler,
        )
        progress.step("self-check")
        options = ExportOptions(
            target=target,
            lowering=lowering,
            verify=None if no_verify else verify_options(seeds),
            expendable=True,
            overwrite=overwrite,
            self_check=check_assumed(model),
        )
        result = export_functions(model, requests, options, out, progress)
    if result.replaced:
        console.remark(f"{result.folder}: replaced {result.replaced}")
    return result
