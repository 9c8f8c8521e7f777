"""`cmexport tune [CKPT]`: search the levels between the first and the last, or compare numbers of steps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from cmexport.checkpoints.choosing import chosen_weights
from cmexport.cli import console
from cmexport.cli import options as o
from cmexport.cli.assumed import assumed_facts
from cmexport.cli.options import PROJECT_FILE, Project, parse_set, read_project
from cmexport.cli.requests import open_checkpoint
from cmexport.demo import demo_checkpoint
from cmexport.errors import UsageError
from cmexport.model import ConsistencyModel
from cmexport.progress import Progress
from cmexport.quality.features import load_judge
from cmexport.sampling.schedules import Schedule, karras_levels, schedule_for_steps
from cmexport.targets.info import LoweringOptions
from cmexport.threads import use_threads
from cmexport.tuning.comparison import StepsRow, compare_steps
from cmexport.tuning.project import write_schedule
from cmexport.tuning.scoring import Setup, Workers, score_schedules
from cmexport.tuning.search import Levels, ScoreBook, search

Steps = Annotated[int, typer.Option("--steps", metavar="K", help="Number of evaluations to find levels for.")]
Features = Annotated[
    str | None,
    typer.Option(
        "--features", metavar="F", help="What judges quality: a ruler .pt file, or module:callable.", show_default=False
    ),
]
Statistics = Annotated[
    str | None,
    typer.Option("--statistics", metavar="X.npz", help="mu and cov of real pictures' features.", show_default=False),
]
Pictures = Annotated[int, typer.Option("--pictures", metavar="N", help="Pictures behind each score.")]
Grid = Annotated[int, typer.Option("--levels", metavar="N", help="Karras levels to choose from.")]
State = Annotated[
    Path | None,
    typer.Option("--state", metavar="FILE", help="Where scores are kept. Default: .cmexport-tune-K.json here."),
]
Jobs = Annotated[int, typer.Option("--jobs", metavar="J", help="Processes; -1 is one per core.")]
Cluster = Annotated[str | None, typer.Option("--cluster", metavar="ray|dask", help="joblib's backend for a cluster.")]
Address = Annotated[str | None, typer.Option("--address", metavar="HOST:PORT", help="Where the cluster is.")]
AsTable = Annotated[
    bool, typer.Option("--table", help="Quality, latency and size for K = 1, 2, 4 instead of a search.")
]


@dataclass(frozen=True)
class _Job:
    """One search: what is judged, by whom, on how fine a grid."""

    setup: Setup
    workers: Workers
    grid: int
    state: Path


TABLE_STEPS = (1, 2, 4)
"""Rows of `--table`."""


def command(
    checkpoint: o.Checkpoint = None,
    steps: Steps = 2,
    features: Features = None,
    statistics: Statistics = None,
    pictures: Pictures = 2048,
    levels: Grid = 40,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the first picture.")] = 0,
    state: State = None,
    jobs: Jobs = 1,
    cluster: Cluster = None,
    address: Address = None,
    table: AsTable = False,
    fp16: o.Fp16 = False,
    size: o.Size = None,
    loras: o.Lora = None,
    assignments: o.Set = None,
    threads: o.Threads = None,
    weights: o.Weights = None,
    strict: o.Strict = False,
    as_json: o.AsJson = False,
) -> None:
    """Find the levels of a K-step schedule by the quality of its pictures and write them into cmexport.toml.

    Ternary search over each middle level, as OpenAI chose theirs; a stopped search goes on where it was. With --table:
    quality, latency and size for K = 1, 2, 4.
    """
    use_threads(threads)
    _check(steps, features, pictures, levels, seed, jobs, cluster, address, table)
    project = read_project(Path())
    if not table:
        _check_project(project, checkpoint, weights)
    assignments = o.with_size(assignments, size, loras=loras)
    overrides = {**({} if checkpoint else project.overrides), **parse_set(assignments)}
    with console.working("load") as progress:
        model = open_checkpoint(checkpoint, assignments, weights=weights, strict=strict)
        if model.policy is not None:
            raise UsageError(f"{model.source.path}: plans actions, and tune judges pictures")
        setup = None
        if features is not None:
            load_judge(features, statistics)
            where = model.source.reference or str(model.source.path)
            chosen = chosen_weights(model.settings)
            setup = Setup(where, tuple(sorted(overrides.items())), features, statistics, pictures, seed, chosen)
        workers = Workers(jobs, cluster, address)
        if table:
            schedules = [schedule_for_steps(model, k) for k in TABLE_STEPS]
            rows = _compare(model, schedules, setup, workers, "fp16" if fp16 else "fp32", progress)
        else:
            assert setup is not None
            job = _Job(setup, workers, levels, state or Path(f".cmexport-tune-{steps}.json"))
            sigmas, score, evaluated = _search(model, steps, job, progress)
    if table:
        _show(rows, assumed_facts(model.settings), as_json)
        return
    named = None if checkpoint is None else str(Path(checkpoint).resolve())
    write_schedule(Path(PROJECT_FILE), sigmas, named, weights)
    if as_json:
        assumed = assumed_facts(model.settings)
        console.emit_json(
            {"sigmas": list(sigmas), "distance": score, "schedules_scored": evaluated, "assumed": assumed}
        )
    console.say(
        f"{', '.join(f'{s:.6g}' for s in sigmas)}: Fréchet distance {score:.4g}, the best of {evaluated} schedules\n"
        f"{PROJECT_FILE}: written; used here when no checkpoint is named",
        quiet=as_json,
    )


def _check(
    steps: int,
    features: str | None,
    pictures: int,
    levels: int,
    seed: int,
    jobs: int,
    cluster: str | None,
    address: str | None,
    table: bool,
) -> None:
    if features is None and not table:
        raise UsageError("--features: what judges the pictures? A ruler .pt file or module:callable; see docs/cli.md")
    if not table and not 2 <= steps < levels:
        raise UsageError(f"--steps {steps}: one step has nothing to tune; 2 to {levels - 1} fit {levels} levels")
    if pictures < 2 or seed < 0:
        raise UsageError("--pictures must be at least 2 and --seed must not be negative")
    if jobs < 1 and jobs != -1:
        raise UsageError(f"--jobs {jobs}: at least 1, or -1 for one per core")
    if cluster not in (None, "ray", "dask"):
        raise UsageError(f"--cluster {cluster}: known are ray and dask")
    if address is not None and cluster is None:
        raise UsageError("--address belongs to --cluster")


def _check_project(project: Project, checkpoint: str | None, weights: str | None) -> None:
    """Refuse other weights than the project's: the schedule will belong to those, so it must be found for them."""
    if weights is not None and project.weights not in (None, weights):
        raise UsageError(f"{PROJECT_FILE}: its weights are {project.weights}, not {weights}; tune in another folder")
    if checkpoint is None:
        return
    owner = project.checkpoint or (demo_checkpoint() if project.sigmas else None)
    if owner is not None and owner.resolve() != Path(checkpoint).resolve():
        raise UsageError(
            f"{PROJECT_FILE}: its schedule is for {owner.name}, not {Path(checkpoint).name}; tune in another folder"
        )


def _grid(model: ConsistencyModel, levels: int) -> tuple[float, ...]:
    """Candidates for levels: Karras', or of a network that knows timesteps those of evenly spaced ones."""
    table = model.schedule
    if table is None:
        return karras_levels(model.noise, levels)
    if levels > table.train_steps:
        raise UsageError(f"--levels {levels}: this model has {table.train_steps} timesteps")
    last = table.train_steps - 1
    return tuple(table.sigma_of(last - round(i * last / (levels - 1))) for i in range(levels))


def _search(model: ConsistencyModel, steps: int, job: _Job, progress: Progress) -> tuple[tuple[float, ...], float, int]:
    table = _grid(model, job.grid)
    question = {
        "checkpoint": model.source.sha256,
        **({} if job.setup.weights is None else {"weights": job.setup.weights}),
        "settings": [f"{name}={value}" for name, value in job.setup.overrides],
        "features": job.setup.features,
        "statistics": job.setup.statistics,
        "pictures": job.setup.pictures,
        "seed": job.setup.seed,
        "levels": job.grid,
    }
    book = ScoreBook(job.state, question)
    if len(book):
        console.remark(f"{job.state}: going on with {len(book)} schedules scored before")
    start = tuple(i * (job.grid // steps) for i in range(steps))

    def score(candidates: list[Levels]) -> list[float]:
        schedules = [tuple(table[i] for i in levels) for levels in candidates]
        return score_schedules(
            job.setup, schedules, job.workers, lambda done, total: progress.pictures("pictures", done, total)
        )

    def tell(levels: Levels, distance: float) -> None:
        progress.step(f"{', '.join(f'{table[i]:.4g}' for i in levels)}: {distance:.4g}")

    found = search(start, job.grid - 1, lambda c: score(list(c)), book, tell)
    return tuple(table[i] for i in found.levels), found.score, found.evaluated


def _compare(
    model: ConsistencyModel,
    schedules: list[Schedule],
    setup: Setup | None,
    workers: Workers,
    precision: str,
    progress: Progress,
) -> tuple[StepsRow, ...]:
    distances: list[float] | list[None] = [None] * len(schedules)
    if setup is not None:
        progress.step("draw and judge")
        sigmas = [s.sigmas or (model.noise.sigma_max,) for s in schedules]
        distances = score_schedules(
            setup, sigmas, workers, lambda done, total: progress.pictures("pictures", done, total)
        )
    return compare_steps(model, schedules, distances, LoweringOptions(precision=precision), progress=progress)


def _show(rows: tuple[StepsRow, ...], assumed: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        listed = [
            {
                "steps": row.steps,
                "sigmas": list(row.schedule.sigmas),
                "schedule": row.schedule.origin,
                "distance": row.distance,
                "latency_ms": row.latency_ms,
                "bytes": row.bytes,
            }
            for row in rows
        ]
        console.emit_json({"rows": listed, "assumed": assumed})
        return
    table = Table("steps", "sigmas", "Fréchet distance", "latency, ms", "x one step", "file, MB", "schedule")
    for row in rows:
        distance = "not judged (--features)" if row.distance is None else f"{row.distance:.4g}"
        ratio = row.latency_ms / rows[0].latency_ms
        levels = ", ".join(f"{s:.4g}" for s in row.schedule.sigmas)
        table.add_row(
            *(str(row.steps), levels, distance, f"{row.latency_ms:.2f}", f"{ratio:.2f}", f"{row.bytes / 1e6:.2f}"),
            row.schedule.origin,
        )
    console.say(table)
