"""`cmexport verify ARTIFACT`: the parity ladder again, or with `--features` the distribution of many pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cmexport.artifact import artifact_folder, read_arrays, read_manifest
from cmexport.artifact.parity_record import DifferenceRecord, ParityRecord
from cmexport.cli import console
from cmexport.cli import options as o
from cmexport.cli.assumed import Heard, tell_recorded
from cmexport.cli.blaming import blame_artifact, blame_facts, show_blame
from cmexport.cli.distribution import Question, check_distribution
from cmexport.cli.requests import verify_options
from cmexport.cli.showing import check_parity, show_parity
from cmexport.errors import CheckpointError, ParityError, UsageError
from cmexport.quality.distribution import DistributionOptions
from cmexport.sources import compare_arrays
from cmexport.threads import use_threads
from cmexport.verification import verify_artifact

Artifact = Annotated[Path, typer.Argument(metavar="ARTIFACT", help="Artefact folder, or the model file in it.")]
Against = Annotated[
    str | None, typer.Option("--against", metavar="CKPT", help="Checkpoint to compare with; default: the recorded one.")
]
Inputs = Annotated[Path | None, typer.Option("--inputs", metavar="X.npz", help="Given graph inputs, by name.")]
Expected = Annotated[Path | None, typer.Option("--expected", metavar="Y.npz", help="Expected pictures, one array.")]

Only = Annotated[
    str | None,
    typer.Option("--task", metavar="T", help="Of an artefact with several graphs, only this one. Default: all."),
]
Blame = Annotated[
    bool,
    typer.Option("--blame", help="Core ML: which operations lose accuracy in half precision. Needs no checkpoint."),
]
Features = Annotated[
    str | None,
    typer.Option(
        "--features",
        metavar="F",
        help="Compare how pictures are distributed, beside PSNR: a ruler .pt file, module:callable, or inception.",
        show_default=False,
    ),
]
Statistics = Annotated[
    str | None,
    typer.Option("--statistics", metavar="X.npz", help="mu and cov of real pictures' features.", show_default=False),
]
Count = Annotated[
    int | None, typer.Option("--count", metavar="N", help="--features: pictures on each side; default 5000.")
]
Seed = Annotated[int | None, typer.Option("--seed", metavar="S", help="--features: seed of the first picture.")]
Batch = Annotated[
    int | None,
    typer.Option(
        "--batch", metavar="N", help="--features: pictures per run of PyTorch; default 16, fewer above 64x64."
    ),
]
MaxDistance = Annotated[
    float | None,
    typer.Option("--max-distance", metavar="D", help="--features: exit code 4 if artefact and reference are farther."),
]


def command(
    artifact: Artifact,
    against: Against = None,
    inputs: Inputs = None,
    expected: Expected = None,
    task: Only = None,
    blame: Blame = False,
    seeds: o.Seeds = None,
    features: Features = None,
    statistics: Statistics = None,
    count: Count = None,
    seed: Seed = None,
    batch: Batch = None,
    max_distance: MaxDistance = None,
    size: o.Size = None,
    loras: o.Lora = None,
    assignments: o.Set = None,
    threads: o.Threads = None,
    weights: o.Weights = None,
    trust: o.Trust = False,
    strict: o.Strict = False,
    as_json: o.AsJson = False,
) -> None:
    """Compare a written artefact with its checkpoint, or with recorded pictures. Exit code 4 if the gate fails.

    With --features: the Fréchet distance, PSNR and classes of thousands of pictures instead of the ladder.
    """
    use_threads(threads)
    folder = artifact_folder(str(artifact))
    if folder is None:
        raise CheckpointError(f"{artifact}: not an artefact; expected a folder with manifest.json, or a file in one")
    if (inputs is None) != (expected is None):
        raise UsageError("--inputs and --expected belong together")
    overrides, heard = o.parse_set(o.with_size(assignments, size, loras=loras)), Heard(strict)
    distribution = {
        "--statistics": statistics,
        "--count": count,
        "--seed": seed,
        "--batch": batch,
        "--max-distance": max_distance,
    }
    if features is not None:
        if blame or inputs is not None or seeds is not None:
            raise UsageError(
                "--features draws --count pictures from the checkpoint; it takes no --blame, --inputs or --seeds"
            )
        defaults = DistributionOptions()
        options = DistributionOptions(
            defaults.count if count is None else count, defaults.seed if seed is None else seed, batch
        )
        question = Question(features, statistics, options, max_distance)
        check_distribution(*(folder, question, against, overrides, task, as_json, heard), weights=weights, trust=trust)
        return
    if alone := [option for option, value in distribution.items() if value is not None]:
        raise UsageError(f"{alone[0]} belongs to --features")
    if blame:
        if against is not None or inputs is not None:
            raise UsageError("--blame compares an artefact with itself; it takes no --against, --inputs or --expected")
        _blame(folder, task, seeds, as_json)
        return
    if inputs is not None and expected is not None:
        if against is not None:
            raise UsageError("compare either --against a checkpoint or with --expected pictures")
        _verify_arrays(folder, inputs, expected, task, as_json)
        return

    def gone(why: str) -> None:
        way = "--lora FILE:SCALE" if why.startswith("the LoRA") else "--against CKPT"
        console.remark(f"{why}; {way} climbs the whole ladder")
        heard.assumed = tell_recorded([read_manifest(folder, check=False)])

    with console.working("read") as progress:
        reports = verify_artifact(
            *(folder, against, overrides, verify_options(seeds), progress, task, heard),
            weights=weights,
            trust=trust,
            gone=gone,
        )
    if as_json:
        records = {n: ParityRecord.from_report(report).model_dump(mode="json") for n, report in reports.items()}
        single = {"parity": next(iter(records.values()))} if len(records) == 1 else {"functions": records}
        console.emit_json({"folder": str(folder), **single, "assumed": heard.assumed})
    else:
        show_parity(reports, read_manifest(folder, check=False).target)
    check_parity(folder, reports)


def _blame(folder: Path, task: str | None, seeds: int | None, as_json: bool) -> None:
    with console.working("read") as progress:
        found = blame_artifact(folder, task, seeds, progress)
    if as_json:
        console.emit_json({"folder": str(folder), **blame_facts(found)})
    else:
        show_blame(found)


def _verify_arrays(folder: Path, inputs: Path, expected: Path, task: str | None, as_json: bool) -> None:
    wanted = read_arrays(expected)
    if len(wanted) != 1:
        raise CheckpointError(f"{expected}: expected one array, the pictures, found {', '.join(wanted) or 'none'}")
    (pictures,) = wanted.values()
    found = compare_arrays(folder, read_arrays(inputs), pictures, task)
    difference = DifferenceRecord.from_difference(found.difference)
    if as_json:
        console.emit_json(
            {
                "folder": str(folder),
                "gate_db": found.gate_db,
                "passed": found.passed,
                "difference": difference.model_dump(mode="json"),
            }
        )
    shown = "identical" if difference.identical else f"{_db(difference.mean_db)} mean, {_db(difference.min_db)} worst"
    summary = f"{difference.pictures} pictures: {shown}, max abs {difference.max_abs:.1e}, gate {found.gate_db:.4g} dB"
    if not found.passed:
        raise ParityError(f"{folder}: {summary}")
    console.say(f"Passed: {summary}.", quiet=as_json)


def _db(value: float | None) -> str:
    return "no PSNR (NaN or Inf)" if value is None else f"{value:.1f} dB"
