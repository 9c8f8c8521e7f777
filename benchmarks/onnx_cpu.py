"""cmexport against its rivals on this machine's CPU: JSON under benchmarks/results/, a table in docs/benchmarks.md.

Without options everything is measured (within 10 minutes on 2 cores) and the page is written again. With `--quick` it
is the demo model at batch 1 only, in few turns, and record and page go to out/bench.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":  # run as a script: import from the checkout, not from this folder
    sys.path[0] = str(ROOT)

from benchmarks.harness.cuda_table import cuda_section  # noqa: E402
from benchmarks.harness.machine import describe_machine, slug  # noqa: E402
from benchmarks.harness.measure import Say, measure_case, prepare_cases  # noqa: E402
from benchmarks.harness.plan import FULL, QUICK, TINY, CasePlan  # noqa: E402
from benchmarks.harness.process import EngineFailedError  # noqa: E402
from benchmarks.harness.records import SCHEMA_VERSION, BenchmarkRecord  # noqa: E402
from benchmarks.harness.table import render, render_case  # noqa: E402
from cmexport import __version__  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "benchmarks.md"


def measure(cases: Sequence[CasePlan], threads: int, quick: bool, seconds: float, say: Say) -> BenchmarkRecord:
    """Make all files (ImageNet-64 needs 5 GB in the temporary folder), then measure case by case.

    What is left of `seconds` after preparing is shared out by the cases' weights; a case that needs less than its
    share leaves the rest to those after it.
    """
    begin = time.monotonic()
    records = []
    with ExitStack() as stack:
        folders = [Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cmexport-bench-"))) for _ in cases]
        prepare_cases(cases, folders, threads, say)
        for index, (case, folder) in enumerate(zip(cases, folders, strict=True)):
            left = seconds - (time.monotonic() - begin)
            share = case.weight / sum(later.weight for later in cases[index:])
            records.append(measure_case(case, folder, threads, share * left, say))
    return BenchmarkRecord(
        schema_version=SCHEMA_VERSION,
        created=datetime.now(UTC).replace(microsecond=0),
        cmexport_version=__version__,
        quick=quick,
        seconds=round(time.monotonic() - begin, 1),
        machine=describe_machine(threads),
        cases=tuple(records),
    )


def stored(folder: Path) -> list[BenchmarkRecord]:
    """All records of a folder, by file name."""
    return [BenchmarkRecord.model_validate_json(p.read_text(encoding="utf-8")) for p in sorted(folder.glob("*.json"))]


def whole_page(results: Path) -> str:
    """Write out all records of a folder: processors', then GPUs'."""
    return "\n".join(filter(None, [render(stored(results)), cuda_section(results / "cuda")]))


def write(record: BenchmarkRecord, results: Path, page: Path) -> Path:
    """Store a record under its machine's name and write the page from all records stored there."""
    results.mkdir(parents=True, exist_ok=True)
    page.parent.mkdir(parents=True, exist_ok=True)
    path = results / f"{slug(record.machine)}.json"
    path.write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")
    page.write_text(whole_page(results), encoding="utf-8")
    return path


def main(arguments: list[str] | None = None) -> int:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="demo model at batch 1, few turns, written to out/bench")
    parser.add_argument("--tiny", action="store_true", help="a very small random network: does the harness work?")
    parser.add_argument("--only", choices=["demo", "imagenet64"], help="cases of one model only, written to out/bench")
    parser.add_argument("--render", action="store_true", help="write the page from the stored records and stop")
    parser.add_argument("--threads", type=int, default=usable, help="intra-op threads (default: usable cores)")
    parser.add_argument("--minutes", type=float, default=10, help="time to stay within (default: 10)")
    parser.add_argument("--out", type=Path, help="folder for the record and the page instead of the checkout's own")
    chosen = parser.parse_args(arguments)
    if chosen.render:
        PAGE.write_text(whole_page(RESULTS), encoding="utf-8")
        return 0
    cases = TINY if chosen.tiny else QUICK if chosen.quick else FULL
    if chosen.only:
        cases = tuple(case for case in cases if case.subject == chosen.only)
    partial = chosen.quick or chosen.tiny or bool(chosen.only)
    out = chosen.out or (ROOT / "out" / "bench" if partial else None)
    begin = time.monotonic()
    try:
        record = measure(
            cases,
            chosen.threads,
            partial,
            60 * chosen.minutes,
            lambda text: print(f"{time.monotonic() - begin:5.0f} s  {text}", file=sys.stderr, flush=True),
        )
    except EngineFailedError as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 1
    path = write(record, out or RESULTS, out / "benchmarks.md" if out else PAGE)
    for case in record.cases:
        print(render_case(case), end="\n\n")
    print(f"{record.seconds:.0f} s; {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
