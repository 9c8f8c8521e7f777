"""Strangers' ONNX file beside what cmexport makes of it: a record below benchmarks/results/, a page in docs/.

    python -m benchmarks.their_file [--minutes 2] [--threads 2]

The file is the terrain model of adaptive-terrain-diffusion (`fetch_terrain`), which is fetched, not shipped. It is read
as a checkpoint, exported in three precisions, and everything is opened in ONNX Runtime: their file as it is, through
onnxsim, and ours. One process for each, in turns, as in `onnx_cpu`; the pictures of 64 seeds at as many difficulties
are compared with their file's. Files are made first, as many at a time as there are threads, so that nothing else runs
while times are taken. Under five minutes on two quiet cores.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fetch_terrain import FILE_SHA256, PACKAGE, VERSION, WHEEL_SHA256, FetchError, fetch
from benchmarks.harness.machine import describe_machine, slug
from benchmarks.harness.measure import Observed, take_turns
from benchmarks.harness.onnx_facts import file_facts
from benchmarks.harness.plan import CasePlan
from benchmarks.harness.process import ROOT, EngineFailedError, child_environment
from benchmarks.harness.records import FileRecord, MachineRecord, Spread
from benchmarks.harness.specs import EngineSpec
from benchmarks.harness.statistics import ratios, steady_rounds, summarize
from benchmarks.harness.table import machine_line
from cmexport import __version__
from cmexport.artifact.schema import Record
from cmexport.parity.metrics import compare

RESULTS = ROOT / "benchmarks" / "results" / "their-file"
PAGE = ROOT / "docs" / "their-file.md"
THEIRS, SIMPLIFIED = "their file", "their file through onnxsim"
OURS = {
    "cmexport fp32": (),
    "cmexport fp16": ("--fp16",),
    "cmexport int8": ("--int8",),
}
LEVELS = 100
"""Their package takes whole numbers from 1 to 100; so does a table of 100 rows."""
SIDE, SIGMA, DIFFICULTY = 128, 80.0, 40
PLAN = CasePlan("terrain", 1, (), generations=4, rounds=4, turn_s=0.6)


class EngineResult(Record):
    """One file: facts, times, and its pictures against their file's (peak 2.0; None of their own)."""

    name: str
    skipped: str | None = None
    file: FileRecord | None = None
    latency_ms: Spread | None = None
    ratio: Spread | None = None
    fastest_ms: float | None = None
    load_ms: Spread | None = None
    load_ratio: float | None = None
    peak_memory_bytes: int | None = None
    mean_db: float | None = None
    worst_db: float | None = None
    max_abs: float | None = None


class TheirFileRecord(Record):
    """A whole run, with the package that the file is from."""

    created: datetime
    cmexport_version: str
    package: str
    version: str
    wheel_sha256: str
    file_sha256: str
    machine: MachineRecord
    pictures: int
    engines: tuple[EngineResult, ...]


def make_files(folder: Path, theirs: Path, threads: int) -> dict[str, Path | str]:
    """Their file through onnxsim, and ours; a reason in place of what could not be made."""
    simplified = folder / "onnxsim.onnx"
    commands = {SIMPLIFIED: ([sys.executable, "-m", "onnxsim", str(theirs), str(simplified)], simplified)}
    for name, options in OURS.items():
        out = folder / (options[0].strip("-") if options else "fp32")
        command = [sys.executable, "-m", "cmexport", "onnx", str(theirs), *options, "--no-verify", "-o", str(out)]
        commands[name] = ([*command, "--levels-of", f"difficulty={LEVELS}"], out)
    # The last takes as long as the others together: calibration.
    with ThreadPoolExecutor(max_workers=threads) as pool:
        running = {name: pool.submit(_made, *commands[name], 1) for name in reversed(commands)}
    made: dict[str, Path | str] = {THEIRS: theirs}
    for name in commands:
        found = running[name].result()
        made[name] = next(found.glob("*/model.onnx")) if isinstance(found, Path) and found.is_dir() else found
    return made


def _made(command: Sequence[str], path: Path, threads: int) -> Path | str:
    if path.exists():
        return path
    done = subprocess.run(command, env=child_environment(threads), capture_output=True, text=True, check=False)
    if done.returncode == 0 and path.exists():
        return path
    return (done.stderr.strip().splitlines() or ["no message"])[-1][:300]


def engine(name: str, path: Path, threads: int) -> EngineSpec:
    """One file as an engine of the harness; both kinds draw the same picture."""
    theirs = name in (THEIRS, SIMPLIFIED)
    numbers = {"sigma": SIGMA, "difficulty": (DIFFICULTY - 1) / (LEVELS - 1)} if theirs else {"difficulty": DIFFICULTY}
    return EngineSpec(
        name=name,
        kind="onnxruntime",
        path=str(path),
        shape=(1, 1, SIDE, SIDE),
        classes=None,
        threads=threads,
        options={"numbers": numbers, "scaled": {"noisy": SIGMA} if theirs else {}},
        graph=True,
    )


def draw(path: Path, pictures: int, threads: int, *, theirs: bool) -> Any:
    """Pictures (N, 1, 128, 128) of seeds 0 and on; difficulties go from 1 to 100."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    drawn = []
    for seed in range(pictures):
        noise = np.random.default_rng(seed).standard_normal((1, 1, SIDE, SIDE), dtype=np.float32)
        difficulty = 1 + seed * (LEVELS - 1) // max(pictures - 1, 1)
        if theirs:
            unit = (difficulty - 1) / (LEVELS - 1)
            fed = {"noisy": noise * np.float32(SIGMA), "sigma": np.full(1, SIGMA, np.float32)}
            fed["difficulty"] = np.full(1, unit, np.float32)
        else:
            fed = {"noise": noise, "difficulty": np.full(1, difficulty, np.float32)}
        drawn.append(session.run(None, fed)[0])
    return np.concatenate(drawn)


def results(
    made: Mapping[str, Path | str], engines: Mapping[str, Observed], pictures: int, threads: int
) -> tuple[EngineResult, ...]:
    """What was seen of each file."""
    theirs = made[THEIRS]
    assert isinstance(theirs, Path)
    expected = draw(theirs, pictures, threads, theirs=True)
    baseline = engines[THEIRS]
    steady = steady_rounds(baseline.times)
    found = []
    for name, path in made.items():
        seen = engines.get(name)
        if isinstance(path, str) or seen is None or seen.failed is not None:
            reason = path if isinstance(path, str) else (seen and seen.failed) or "did not run"
            found.append(EngineResult(name=name, skipped=reason))
            continue
        counted = [seen.times[n] for n in sorted(steady) if n in seen.times]
        drawn = None if name == THEIRS else draw(path, pictures, threads, theirs=name == SIMPLIFIED)
        apart = None if drawn is None else compare(expected, drawn)
        found.append(
            EngineResult(
                name=name,
                file=file_facts(path),
                latency_ms=_spread(counted, 1e3),
                ratio=_spread(ratios(seen.times, baseline.times, steady)),
                fastest_ms=1e3 * seen.fastest,
                load_ms=_spread(seen.loads, 1e3),
                load_ratio=summarize(seen.loads).median / summarize(baseline.loads).median,
                peak_memory_bytes=round(summarize(seen.memory).median),
                mean_db=apart and apart.mean_db,
                worst_db=apart and apart.min_db,
                max_abs=apart and apart.max_abs,
            )
        )
    return tuple(found)


def _spread(values: Sequence[float], factor: float = 1.0) -> Spread:
    found = summarize([factor * value for value in values])
    return Spread(median=found.median, lower=found.lower, upper=found.upper, count=found.count)


def render(records: Sequence[TheirFileRecord]) -> str:
    """Write the page; one section for each machine."""
    parts = [
        "# Strangers' file beside ours",
        "",
        "Generated by `python -m benchmarks.their_file` from `benchmarks/results/their-file/*.json`; don't edit by",
        "hand.",
        "",
        "The file is a consistency model that others trained and exported: OpenAI's UNet, one channel, 128 x 128,",
        f"with a continuous difficulty, from PyPI's [{PACKAGE}](https://pypi.org/project/{PACKAGE}/) (MIT, Youwei Yu).",
        f"cmexport reads it as a checkpoint and exports it with `--levels-of difficulty={LEVELS}`. How times are",
        "taken: [benchmarks](benchmarks.md). Pictures are compared with their file's own, in ONNX Runtime, at equal",
        "noise and difficulty, peak 2.0.",
    ]
    for record in records:
        parts += ["", *_section(record)]
    return "\n".join(parts) + "\n"


def _section(record: TheirFileRecord) -> list[str]:
    lines = [
        f"## {machine_line(record.machine)}",
        "",
        f"{record.package} {record.version}, wheel `{record.wheel_sha256[:16]}...`, "
        f"file `{record.file_sha256[:16]}...`. "
        f"Run of {record.created:%Y-%m-%d} with cmexport {record.cmexport_version}, "
        + ", ".join(f"{name} {version}" for name, version in record.machine.versions.items())
        + f". {record.pictures} pictures compared.",
        "",
        "| file | nodes | MB | load ms | load, ratio | ms | ratio | fastest ms | memory MB | dB, mean | worst | "
        "largest difference |",
        "|---|" + "---:|" * 11,
    ]
    lines += [_row(engine) for engine in record.engines if engine.skipped is None]
    lines += [""] + [f"- not run: {e.name}: {e.skipped}" for e in record.engines if e.skipped is not None]
    return lines if lines[-1] else lines[:-1]


def _row(result: EngineResult) -> str:
    file, latency, ratio, load = result.file, result.latency_ms, result.ratio, result.load_ms
    assert file is not None
    assert latency is not None
    assert ratio is not None
    assert load is not None
    cells = [
        result.name if result.name in (THEIRS, SIMPLIFIED) else f"**{result.name}**",
        f"{file.nodes:,}",
        f"{file.bytes / 1e6:.1f}",
        f"{load.median:.0f}",
        f"{result.load_ratio:.2f}",
        f"{latency.median:.0f} [{latency.lower:.0f}, {latency.upper:.0f}]",
        f"{ratio.median:.2f} [{ratio.lower:.2f}, {ratio.upper:.2f}]",
        f"{result.fastest_ms:.0f}",
        f"{(result.peak_memory_bytes or 0) / 1e6:.0f}",
        "" if result.mean_db is None else f"{result.mean_db:.1f}",
        "" if result.worst_db is None else f"{result.worst_db:.1f}",
        "" if result.max_abs is None else f"{result.max_abs:.1e}",
    ]
    return f"| {' | '.join(cells)} |"


def main(arguments: list[str] | None = None) -> int:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=2, help="at most, for the turns (default: 2)")
    parser.add_argument("--threads", type=int, default=usable, help="intra-op threads (default: usable cores)")
    parser.add_argument("--pictures", type=int, default=64, help="compared with their file's (default: 64)")
    parser.add_argument("--files", type=Path, help="keep the files here, and take those that lie here")
    parser.add_argument("--out", type=Path, help="folder for record and page instead of the checkout's own")
    parser.add_argument("--render", action="store_true", help="write the page from the stored records and stop")
    chosen = parser.parse_args(arguments)
    results_folder, page = (RESULTS, PAGE) if chosen.out is None else (chosen.out, chosen.out / PAGE.name)
    if not chosen.render:
        try:
            record = measure(chosen.files, chosen.minutes, chosen.threads, chosen.pictures)
        except (FetchError, EngineFailedError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        results_folder.mkdir(parents=True, exist_ok=True)
        path = results_folder / f"{slug(record.machine)}.json"
        path.write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")
        print("\n".join(_section(record)))
    stored = [TheirFileRecord.model_validate_json(p.read_text()) for p in sorted(results_folder.glob("*.json"))]
    page.write_text(render(stored), encoding="utf-8")
    return 0


def measure(files: Path | None, minutes: float, threads: int, pictures: int) -> TheirFileRecord:
    """Make the files, let them take turns, compare their pictures.

    Raises:
        FetchError: the package can't be had.
        EngineFailedError: their file doesn't run.
    """
    theirs = fetch()
    environment = child_environment(threads)

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory(prefix="cmexport-theirs-") as scratch:
        folder = files or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        say("making files")
        made = make_files(folder, theirs, threads)
        specs = [engine(name, path, threads) for name, path in made.items() if isinstance(path, Path)]
        engines = take_turns(PLAN, specs, Path(scratch), environment, time.monotonic() + 60 * minutes, say)
        if not engines[THEIRS].times:
            raise EngineFailedError(f"their file did not run: {engines[THEIRS].failed}")
        say("comparing pictures")
        found = results(made, engines, pictures, threads)
    return TheirFileRecord(
        created=datetime.now(UTC).replace(microsecond=0),
        cmexport_version=__version__,
        package=PACKAGE,
        version=VERSION,
        wheel_sha256=WHEEL_SHA256,
        file_sha256=FILE_SHA256,
        machine=describe_machine(threads),
        pictures=pictures,
        engines=found,
    )


if __name__ == "__main__":
    sys.exit(main())
