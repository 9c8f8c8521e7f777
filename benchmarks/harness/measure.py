"""Measure one case: start the engines, let them take turns, and turn times into a record."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness.onnx_facts import file_facts
from benchmarks.harness.plan import EAGER, NAIVE, CasePlan, needed, specs_for
from benchmarks.harness.process import EngineFailedError, EngineProcess, child_environment
from benchmarks.harness.records import CaseRecord, EngineRecord, FlopRecord, ProductRecord, Spread
from benchmarks.harness.specs import EngineSpec, path_of
from benchmarks.harness.statistics import Summary, ratios, shuffled_orders, steady_rounds, summarize
from benchmarks.harness.subjects import SUBJECTS
from cmexport.parity.metrics import compare

PAUSE_S = 0.02
"""Between turns: threads of the engine before spin for a few milliseconds and would disturb the next one."""
MOST_RUNS = 20

Say = Callable[[str], None]


@dataclass
class Observed:
    """What has been seen of one engine so far: a turn's median (seconds) by round number in `times`, the best run."""

    index: int
    spec: EngineSpec
    times: dict[int, float] = field(default_factory=dict)
    fastest: float = math.inf
    loads: list[float] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    failed: str | None = None
    arithmetic: str | None = None
    picture: Path | None = None
    runs: int = 0


def prepare_cases(plans: Sequence[CasePlan], folders: Sequence[Path], threads: int, say: Say) -> None:
    """Make all files, and fill inductor's cache: two jobs at a time, for nothing is measured here.

    Raises:
        EngineFailedError: a file could not be made.
    """
    jobs: list[Callable[[], None]] = []
    half = max(threads // 2, 1)
    for plan, folder in zip(plans, folders, strict=True):
        _make(plan, folder, threads, "work")
        jobs.append(partial(_make, plan, folder, half, *needed(plan)))
        jobs += [
            partial(_compile, spec, folder, threads)
            for spec in _specs(plan, folder, threads)[1]
            if spec.options.get("compile")
        ]
    done = 0
    # The last case is the largest model: begin with it, so that no job is left to run alone for long.
    with ThreadPoolExecutor(2) as pool:
        for job in as_completed([pool.submit(job) for job in reversed(jobs)]):
            job.result()
            done += 1
            say(f"making files: {done} of {len(jobs)} jobs done")


def _compile(spec: EngineSpec, folder: Path, threads: int) -> None:
    """One process that compiles and ends. A failure shows itself again, and is recorded, when the engine is started."""
    with suppress(EngineFailedError):
        EngineProcess(spec, _environment(folder, threads)).close()


def measure_case(plan: CasePlan, folder: Path, threads: int, seconds: float, say: Say) -> CaseRecord:
    """Measure a case whose files `prepare_cases` has made in `folder`.

    At least one generation is measured; another one begins only if it should be over within `seconds`.

    Raises:
        EngineFailedError: the baseline failed, so that there is nothing to compare with.
    """
    begin = time.monotonic()
    subject = SUBJECTS[plan.subject]
    environment = _environment(folder, threads)
    work, specs = _specs(plan, folder, threads)
    shapes = json.dumps(work["products"])
    products = _python("products", [str(plan.product_edge)], environment, shapes)
    engines = take_turns(plan, specs, folder, environment, begin + seconds, say)
    again = _python("products", [str(plan.product_edge)], environment, shapes)
    rates = {a: {k: max(v, again[a][k]) for k, v in found.items()} for a, found in products.items()}
    if not engines[NAIVE].times:
        raise EngineFailedError(f"the baseline did not run: {engines[NAIVE].failed}")
    return CaseRecord(
        model=subject.name,
        title=subject.title,
        batch=plan.batch,
        parameters=work["parameters"],
        baseline=NAIVE,
        flops=FlopRecord(**work["flops"]),
        products=tuple(ProductRecord(arithmetic=a, edge=plan.product_edge, **found) for a, found in rates.items()),
        engines=tuple(_records(engines, sum(work["flops"].values()), rates)),
    )


def take_turns(
    plan: CasePlan, specs: Sequence[EngineSpec], folder: Path, environment: dict[str, str], until: float, say: Say
) -> dict[str, Observed]:
    """Let engines take turns as the plan says; another generation begins only if it should be over by `until`.

    Args:
        plan: generations, rounds, length of a turn; its engines are not looked at.
        specs: the engines.
        folder: for pictures.
        environment: of every process.
        until: on the monotonic clock, seconds.
        say: told about every generation.
    """
    engines = {spec.name: Observed(index, spec) for index, spec in enumerate(specs)}
    number, longest = 0, 0.0
    for generation in range(plan.generations):
        start = time.monotonic()
        if generation and start + longest > until:
            break
        say(f"{plan.subject}, batch {plan.batch}: generation {generation + 1} of {plan.generations}")
        taking_part = [
            engine
            for engine in engines.values()
            if engine.failed is None and not (engine.spec.costly and generation >= plan.costly_generations)
        ]
        run = _generation_together if plan.together else _generation_one_by_one
        number = run(plan, taking_part, number, generation, folder, environment)
        longest = max(longest, time.monotonic() - start)
    return engines


def _environment(folder: Path, threads: int) -> dict[str, str]:
    return child_environment(threads, {"TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor")})


def _make(plan: CasePlan, folder: Path, threads: int, *names: str) -> None:
    _python("prepare", [plan.subject, str(plan.batch), str(folder), *names], _environment(folder, threads))


def _specs(plan: CasePlan, folder: Path, threads: int) -> tuple[dict[str, Any], list[EngineSpec]]:
    """What `prepare` wrote about the network, and the engines pointed at their files."""
    work = json.loads(path_of(folder, "work").read_text(encoding="utf-8"))
    subject = SUBJECTS[plan.subject]
    return work, specs_for(plan, work, folder, subject.checkpoint(folder), subject.overrides, threads)


def _python(module: str, arguments: Sequence[str], environment: dict[str, str], given: str | None = None) -> Any:
    """Run one of the harness's own programs; what it prints last, if it is JSON."""
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.harness.{module}", *arguments],
        env=environment,
        input=given,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise EngineFailedError(f"{module} {' '.join(arguments)}: {lines[-1] if lines else done.returncode}")
    return json.loads(done.stdout.splitlines()[-1]) if given is not None else None


def _open(engine: Observed, environment: dict[str, str]) -> EngineProcess | None:
    """A fresh process whose load time is noted, or None when the engine can't run here."""
    try:
        process = EngineProcess(engine.spec, environment)
    except EngineFailedError as error:
        engine.failed = str(error)
        return None
    engine.loads.append(process.load_s)
    return process


def _look(engine: Observed, process: EngineProcess, folder: Path) -> None:
    """Keep the picture of the first process, for the comparison."""
    if engine.picture is None:
        engine.picture = folder / f"picture-{engine.index}.npy"
        engine.arithmetic = process.picture(engine.picture)


def _turn(engine: Observed, process: EngineProcess, plan: CasePlan, number: int) -> None:
    if not engine.runs:
        # The first run of all may be slow for a reason of its own; a slow model's is representative and dear.
        pilot = min(process.run(1 if plan.turn_s > 1 else 3))
        engine.runs = max(2, min(MOST_RUNS, round(plan.turn_s / pilot)))
    time.sleep(PAUSE_S)
    seconds = process.run(engine.runs)
    engine.times[number] = summarize(seconds).median
    engine.fastest = min(engine.fastest, *seconds)


def _generation_together(
    plan: CasePlan, engines: list[Observed], number: int, seed: int, folder: Path, environment: dict[str, str]
) -> int:
    """All processes alive at once, `plan.rounds` rounds of turns. Returns the number of the next round."""
    alive: list[EngineProcess] = []
    by_name: dict[str, tuple[Observed, EngineProcess]] = {}
    try:
        for name in shuffled_orders([e.spec.name for e in engines], 1, seed)[0]:
            engine = next(e for e in engines if e.spec.name == name)
            process = _open(engine, environment)
            if process is not None:
                alive.append(process)
                by_name[name] = (engine, process)
        for engine, process in by_name.values():
            _guard(engine, _look, process, folder)
        for order in shuffled_orders(list(by_name), plan.rounds, seed + 1000):
            for name in order:
                engine, process = by_name[name]
                if engine.failed is None:
                    _guard(engine, _turn, process, plan, number)
            number += 1
        for engine, process in by_name.values():
            if engine.failed is None:
                engine.memory.append(process.peak_memory())
    finally:
        for process in alive:
            process.close()
    return number


def _generation_one_by_one(
    plan: CasePlan, engines: list[Observed], number: int, seed: int, folder: Path, environment: dict[str, str]
) -> int:
    """One process at a time: models of gigabytes. Each generation is one round."""
    for name in shuffled_orders([e.spec.name for e in engines], 1 + seed % 2, seed - seed % 2)[-1]:
        engine = next(e for e in engines if e.spec.name == name)
        process = _open(engine, environment)
        if process is None:
            continue
        try:
            _guard(engine, _look, process, folder)
            if engine.failed is None:
                _guard(engine, _turn, process, plan, number)
            if engine.failed is None:
                engine.memory.append(process.peak_memory())
        finally:
            process.close()
    return number + 1


def _guard(engine: Observed, action: Callable[..., None], *arguments: Any) -> None:
    """Do something with an engine; when it breaks, that becomes its reason in the table."""
    try:
        action(engine, *arguments)
    except EngineFailedError as error:
        engine.failed = str(error)


def _records(
    engines: Mapping[str, Observed], flops: int, rates: Mapping[str, Mapping[str, float]]
) -> list[EngineRecord]:
    baseline = engines[NAIVE].times
    steady = steady_rounds(baseline)
    eager = engines.get(EAGER)
    reference = None if eager is None or eager.picture is None else np.load(eager.picture)
    best = engines[NAIVE].fastest
    return [_record(engine, baseline, best, steady, reference, flops, rates) for engine in engines.values()]


def _record(
    engine: Observed,
    baseline: Mapping[int, float],
    best: float,
    steady: frozenset[int],
    reference: Any,
    flops: int,
    rates: Mapping[str, Mapping[str, float]],
) -> EngineRecord:
    spec = engine.spec
    counted = [engine.times[n] for n in sorted(steady) if n in engine.times]
    if engine.failed is not None or not counted:
        reason = engine.failed or "no turn of this engine met a steady baseline"
        return EngineRecord(name=spec.name, arithmetic=spec.arithmetic, skipped=reason, note=spec.note)
    latency = summarize(counted)
    arithmetic = engine.arithmetic or spec.arithmetic
    reached = flops / latency.median / 1e9
    rate = rates.get(arithmetic)
    psnr = None
    if reference is not None and engine.picture is not None and spec.name != EAGER:
        psnr = compare(reference, np.load(engine.picture)).mean_db
    return EngineRecord(
        name=spec.name,
        arithmetic=arithmetic,
        note=spec.note,
        latency_ms=_spread(latency, 1e3),
        ratio=_spread(summarize(ratios(engine.times, baseline, steady))),
        fastest_ms=engine.fastest * 1e3,
        fastest_ratio=engine.fastest / best,
        turns_dropped=len(engine.times) - len(counted),
        load_ms=_spread(summarize(engine.loads), 1e3),
        peak_memory_bytes=round(summarize(engine.memory).median),
        file=file_facts(Path(spec.path)) if spec.graph else None,
        psnr_db=psnr,
        share_of_peak=reached / rate["large"] if rate else None,
        share_at_shapes=reached / rate["at_shapes"] if rate else None,
    )


def _spread(summary: Summary, factor: float = 1.0) -> Spread:
    return Spread(
        median=summary.median * factor,
        lower=summary.lower * factor,
        upper=summary.upper * factor,
        count=summary.count,
    )
