"""`cmexport bench ARTIFACT...`: latency, memory, energy and parity on a device, one JSON record per run."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from cmexport.artifact import artifact_folder, read_manifest
from cmexport.bench.devices.base import BenchJob, DeviceOptions, MeasureOptions
from cmexport.bench.devices.registry import FORMS, device_named
from cmexport.bench.jobs import check_names, prepare_job
from cmexport.bench.records import append_record, samples_folder
from cmexport.bench.schema import BenchRecord
from cmexport.bench.table import bench_table, remarks
from cmexport.cli import console
from cmexport.cli import options as o
from cmexport.cli.assumed import tell_recorded
from cmexport.errors import BackendError, CheckpointError, OutputError, UsageError
from cmexport.progress import Progress

Artifacts = Annotated[
    list[Path], typer.Argument(metavar="ARTIFACT", help="Artefact folders; several are measured in turns.")
]
DeviceSpec = Annotated[str, typer.Option("--device", metavar="D", help=f"{', '.join(FORMS)}.")]
Records = Annotated[
    Path, typer.Option("-o", "--out", metavar="FILE", help="File of records (JSON Lines) to append to.")
]
Runs = Annotated[int, typer.Option("--runs", metavar="N", min=1, help="Timed runs at least, in each repeat.")]
Seconds = Annotated[float, typer.Option("--seconds", metavar="S", min=0, help="Seconds of timed runs at least.")]
MaxSeconds = Annotated[
    float,
    typer.Option(
        "--max-seconds", metavar="S", min=0, help="Seconds of timed runs at most, whatever their number; 0: no limit."
    ),
]
RequireQuiet = Annotated[
    bool,
    typer.Option("--require-quiet", help="No figure beside other work: exit code 5 instead of a record flagged busy."),
]
Threads = Annotated[
    int, typer.Option("--threads", metavar="T", min=0, help="Threads per run; 0: the runtime's choice.")
]
Sustained = Annotated[
    float, typer.Option("--sustained", metavar="MIN", min=0, help="Then so many minutes of back-to-back runs.")
]
Repeats = Annotated[
    int, typer.Option("--repeats", metavar="N", min=1, help="Measure N times; medians must agree within 5 %.")
]
Energy = Annotated[
    str, typer.Option("--energy", metavar="SOURCE", help="auto, off, nvml, rapl, soc (Jetson, Apple), battery.")
]
Provider = Annotated[
    str,
    typer.Option("--provider", metavar="P", help="Unit to run on: cpu, cuda, wasm, webgpu, ...; auto: the artefact's."),
]
Pictures = Annotated[int, typer.Option("--pictures", metavar="N", min=1, help="Pictures compared with PyTorch's.")]
Task = Annotated[str | None, typer.Option("--task", metavar="T", help="Which graph, of an artefact with several.")]
Identity = Annotated[Path | None, typer.Option("--identity", metavar="FILE", help="ssh: private key.")]
KnownHosts = Annotated[Path | None, typer.Option("--known-hosts", metavar="FILE", help="ssh: file of host keys.")]
Python = Annotated[str, typer.Option("--python", metavar="PATH", help="Interpreter on the device.", show_default=False)]
Native = Annotated[Path | None, typer.Option("--native", metavar="FILE", help="adb: a runner built for the device.")]
Host = Annotated[
    str,
    typer.Option(
        "--host",
        metavar="ADDR",
        help="browser: address to serve on; 0.0.0.0 lets phones in, over https (http://ADDR: without).",
    ),
]
Port = Annotated[int, typer.Option("--port", min=0, max=65535, metavar="N", help="browser: port; 0 takes a free one.")]
Keep = Annotated[bool, typer.Option("--keep", help="browser: serve again after the first visitor.")]


def command(
    artifacts: Artifacts,
    device: DeviceSpec = "local",
    out: Records = Path("records.jsonl"),
    runs: Runs = 30,
    seconds: Seconds = 10.0,
    max_seconds: MaxSeconds = 120.0,
    require_quiet: RequireQuiet = False,
    threads: Threads = 0,
    sustained: Sustained = 0.0,
    repeats: Repeats = 1,
    energy: Energy = "auto",
    provider: Provider = "auto",
    pictures: Pictures = 4,
    task: Task = None,
    identity: Identity = None,
    known_hosts: KnownHosts = None,
    python: Python = "",
    native: Native = None,
    host: Host = "127.0.0.1",
    port: Port = 0,
    keep: Keep = False,
    as_json: o.AsJson = False,
) -> None:
    """Latency, memory, energy and parity of artefacts on a device.

    Several artefacts are measured in interleaved turns. Ctrl-C keeps what was measured.
    """
    if out.is_dir():
        raise UsageError(f"-o {out}: a folder; name a file of records, e.g. {out / 'records.jsonl'}")
    _check_writable(out)
    options = MeasureOptions(
        min_runs=runs,
        min_seconds=seconds,
        max_seconds=max_seconds,
        require_quiet=require_quiet,
        threads=threads,
        sustained_minutes=sustained,
        repeats=repeats,
        energy=energy,
        provider=provider,
        pictures=pictures,
        samples=samples_folder(out),
        run=f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}",
    )
    reached = DeviceOptions(
        identity=identity,
        known_hosts=known_hosts,
        python=python,
        native=native,
        host=host,
        port=port,
        keep=keep,
        show=console.remark,
    )
    place = device_named(device, reached)
    found: list[BenchRecord] = []
    disturbed: list[BenchRecord] = []
    assumed: list[dict[str, Any]] = []
    try:
        with console.working("read") as progress:
            jobs, assumed = _prepare(artifacts, options, progress, task)
            for record in place.run(jobs, options, progress):
                if require_quiet and _disturbed(record):
                    disturbed.append(record)
                    continue
                append_record(out, record)
                found.append(record)
    except KeyboardInterrupt:
        if found:
            _show(found, out, assumed, as_json)
            console.remark(f"what was measured by then is kept: {_records(len(found))}")
        raise
    _show(found, out, assumed, as_json)
    if disturbed:
        raise BackendError(_not_quiet(disturbed))
    _complain(found)


def _disturbed(record: BenchRecord) -> bool:
    """Whether other work took part, or may have: what can't be seen can't be vouched for."""
    validity = record.validity
    unknown = validity.others_during is None and validity.canary_slowdown is None
    return record.failure is None and ("busy" in validity.flags or unknown)


def _not_quiet(records: Sequence[BenchRecord]) -> str:
    names = ", ".join(record.artifact.name for record in records)
    share = records[0].validity.others_during
    what = "other work can't be seen there" if share is None else f"other work had {share:.0%} of the processor"
    return f"{names}: not quiet, no record was kept: {what}; end it, or leave --require-quiet out"


def _check_writable(out: Path) -> None:
    """Better now than after minutes of measuring."""
    place = next(p for p in (out, *out.absolute().parents) if p.exists())
    if (place != out and not place.is_dir()) or not os.access(place, os.W_OK):
        raise OutputError(f"{out}: {place} can't be written to; choose another file with -o")


def _prepare(
    artifacts: Sequence[Path], options: MeasureOptions, progress: Progress, task: str | None
) -> tuple[list[BenchJob], list[dict[str, Any]]]:
    """Return what to run, and what the artefacts' exports had guessed."""
    folders = []
    for path in artifacts:
        folder = artifact_folder(str(path))
        if folder is None:
            raise CheckpointError(f"{path}: not an artefact; expected a folder with manifest.json, or a file in one")
        folders.append(folder)
    assumed = tell_recorded([read_manifest(folder, check=False) for folder in folders])
    jobs = [prepare_job(folder, options, progress, task) for folder in folders]
    check_names(jobs)
    return jobs, assumed


def _show(records: Sequence[BenchRecord], out: Path, assumed: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        listed = [record.model_dump(mode="json") for record in records]
        console.emit_json({"out": str(out), "records": listed, "assumed": assumed})
        return
    if not records:
        return
    first = records[0]
    console.say(
        f"{first.device.name}: {first.device.processor or first.device.model or 'unknown processor'}, "
        f"{first.device.os or 'unknown system'}; {first.backend.name} {first.backend.version or ''}".rstrip()
    )
    console.say(bench_table(records))
    for remark in remarks(records):
        console.say(remark)
    console.say(f"{_records(len(records))} added to {out}")


def _records(number: int) -> str:
    return "1 record" if number == 1 else f"{number} records"


def _complain(records: Sequence[BenchRecord]) -> None:
    """Exit code 5 when nothing at all ran; a part that failed is in its record and in the table."""
    if not records:
        raise OutputError("no record was made")
    failed = [r for r in records if r.failure is not None]
    if len(failed) == len(records) and failed[0].failure is not None:
        raise BackendError(f"{failed[0].artifact.name}: {failed[0].failure.message}")
