"""What `verify --features` measures and shows: the distribution of an artefact's pictures beside the reference's."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from cmexport.cli import console
from cmexport.cli.assumed import Heard
from cmexport.errors import ParityError, UsageError
from cmexport.progress import Progress as Callbacks
from cmexport.quality.distribution import Distances, DistributionOptions, DistributionReport, compare_distributions
from cmexport.quality.jackknife import Estimate
from cmexport.quality.jury import load_jury


@dataclass(frozen=True)
class Question:
    """What was asked, as typed.

    Attributes:
        features: `--features`.
        statistics: `--statistics`.
        options: `--count`, `--seed` and `--batch`.
        max_distance: the largest Fréchet distance to the reference's pictures that is accepted; None: any.
    """

    features: str
    statistics: str | None
    options: DistributionOptions
    max_distance: float | None


def check_distribution(
    folder: Path,
    question: Question,
    against: str | None,
    overrides: Mapping[str, str],
    task: str | None,
    as_json: bool,
    heard: Heard,
    *,
    weights: str | None = None,
    trust: bool = False,
) -> None:
    """Measure, show, and fail where the pictures do; `heard` says what is guessed of the checkpoint.

    Raises:
        ParityError: a mean PSNR is below its gate, a number is not finite, or a distance is above `--max-distance`.
        UsageError, CheckpointError, BackendError: see `load_jury` and `compare_distributions`.
    """
    largest = question.max_distance
    if largest is not None and not (math.isfinite(largest) and largest >= 0.0):
        raise UsageError(f"--max-distance {largest}: a distance is a number from 0 on")
    with _drawing() as progress:
        jury = load_jury(question.features, question.statistics)
        reports = compare_distributions(
            *(folder, jury, against, overrides, question.options, progress, task, heard), weights=weights, trust=trust
        )
    if as_json:
        facts = {name: _facts(report, largest) for name, report in reports.items()}
        single = {"distribution": next(iter(facts.values()))} if len(facts) == 1 else {"functions": facts}
        console.emit_json({"folder": str(folder), **single, "assumed": heard.assumed})
    else:
        for name, report in reports.items():
            if len(reports) > 1:
                console.say(f"{name}:")
            _show(report)
    for name, report in reports.items():
        if fault := _fault(report, largest):
            raise ParityError(f"{folder}{f' ({name})' if len(reports) > 1 else ''}: {fault}")


class _RateColumn(ProgressColumn):
    """A column of the progress bar: pictures per second."""

    def render(self, task: Task) -> Text:
        """Return the rate of the last seconds."""
        return Text("" if task.speed is None else f"{task.speed:.1f} pictures/s")


@contextmanager
def _drawing() -> Iterator[Callbacks]:
    """Progress on stderr with the rate and the time left; silent when stderr is not a terminal."""
    progress = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        TextColumn("{task.completed}/{task.total}"),
        _RateColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )
    with progress:
        task = progress.add_task("read", total=None)

        def step(name: str) -> None:
            progress.reset(task, description=name, total=None)

        def drawn(_name: str, done: int, total: int) -> None:
            # Small models are done between two refreshes: the last state is shown in any case.
            progress.update(task, completed=done, total=total, refresh=done == total)

        yield Callbacks(step, drawn)


def _show(report: DistributionReport) -> None:
    last = report.seed + report.pictures - 1
    fidelity = report.fidelity
    console.say(
        f"{report.candidate} beside PyTorch float32 over {report.pictures} pictures (seeds {report.seed} to {last}), "
        f"judged by {report.judge}; {report.pictures / report.seconds:.1f} pictures/s"
    )
    if fidelity.non_finite:
        console.say(f"{fidelity.non_finite} pictures hold NaN or Inf, the first of seed {fidelity.worst_seed}.")
    elif fidelity.mean_db is None:
        console.say("PSNR: every picture is identical.")
    else:
        console.say(
            f"PSNR: mean {fidelity.mean_db:.1f} dB, worst {_db(fidelity.min_db)} (seed {fidelity.worst_seed}), "
            f"1st percentile {_db(fidelity.percentile_1_db)}; "
            f"{100.0 * fidelity.below_gate:.4g} % below {fidelity.gate_db:.4g} dB"
        )
    if report.distances is not None:
        console.say(_table(report, report.distances))
    if report.agreement is not None:
        asked = report.agreement.artifact_asked, report.agreement.reference_asked
        text = f"Same class as the reference's picture: {100.0 * report.agreement.same:.2f} %."
        if asked[0] is not None and asked[1] is not None:
            text += f" The class asked for: artefact {100.0 * asked[0]:.2f} %, reference {100.0 * asked[1]:.2f} %."
        console.say(text)


def _table(report: DistributionReport, distances: Distances) -> Table:
    notes = [
        f"Of N = {report.pictures} pictures on each side: a Fréchet distance depends on N, compare at the same one.",
        "Intervals: block jackknife over pictures, 20 blocks.",
    ]
    if report.pictures <= report.features:
        notes.append(f"{report.pictures} pictures don't span {report.features} features: take more to judge quality.")
    if distances.artifact_real is None:
        notes.append("Distances to real pictures need --statistics X.npz.")
    table = Table(
        "Fréchet distance",
        title=Text(f"{report.features} features"),
        title_justify="left",
        caption=Text("\n".join(notes)),
        caption_justify="left",
    )
    table.add_column("value", justify="right")
    table.add_column("95 % interval", justify="right")
    rows: tuple[tuple[str, Estimate | None], ...] = (
        ("artefact to reference", distances.artifact_reference),
        ("artefact to real pictures", distances.artifact_real),
        ("reference to real pictures", distances.reference_real),
        ("difference of these two", distances.difference),
    )
    for name, found in rows:
        if found is not None:
            table.add_row(name, f"{found.value:.4g}", f"{found.low:.4g} to {found.high:.4g}")
    table.add_row("for scale: the reference's own two halves", f"{distances.halves:.4g}", "")
    return table


def _db(value: float | None) -> str:
    return "identical" if value is None else f"{value:.1f} dB"


def _fault(report: DistributionReport, largest: float | None) -> str | None:
    """Why these pictures are not accepted, in one sentence."""
    fidelity = report.fidelity
    if fidelity.non_finite:
        return f"Failed: {fidelity.non_finite} of {report.pictures} pictures hold NaN or Inf."
    if not fidelity.passed:
        return (
            f"Failed: mean PSNR {fidelity.mean_db:.1f} dB over {report.pictures} pictures, "
            f"gate {fidelity.gate_db:.4g} dB."
        )
    if _too_far(report, largest):
        assert report.distances is not None
        return (
            f"Failed: Fréchet distance {report.distances.artifact_reference.value:.4g} to the reference's "
            f"{report.pictures} pictures, --max-distance {largest:.4g}."
        )
    return None


def _too_far(report: DistributionReport, largest: float | None) -> bool:
    return largest is not None and report.distances is not None and report.distances.artifact_reference.value > largest


def _facts(report: DistributionReport, largest: float | None) -> dict[str, Any]:
    """Return the report as plain data; None where nothing could be measured."""
    return {**asdict(report), "max_distance": largest, "passed": _fault(report, largest) is None}
