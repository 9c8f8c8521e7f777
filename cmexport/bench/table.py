"""Records as a table for people: what was measured, and the reason wherever nothing was."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from cmexport.bench.schema import BenchRecord


def bench_table(records: Sequence[BenchRecord]) -> Table:
    """One row per record; milliseconds per run, megabytes of the process, millijoules per picture (net)."""
    table = Table(
        "artefact", "p50, ms", "p90", "p99", "first", "load cold / warm", "peak, MB", "energy, mJ", "parity, dB"
    )
    for column in table.columns[1:]:
        column.justify = "right"
    for label, record in zip(labels(records), records, strict=True):
        timing = record.timing_ms
        table.add_row(
            label,
            f"{figure(timing.p50, 2)}{' busy' if 'busy' in record.validity.flags else ''}",
            figure(timing.p90, 2),
            figure(timing.p99, 2),
            figure(timing.first, 1),
            f"{figure(timing.load_cold, 0)} / {figure(timing.load_warm, 0)}",
            figure(record.memory_mb.peak, 0),
            energy_cell(record),
            parity_cell(record),
        )
    return table


def figure(value: float | None, digits: int) -> str:
    """Write a number, or a dash."""
    return "-" if value is None else f"{value:.{digits}f}"


def energy_cell(record: BenchRecord) -> str:
    """Net millijoules per picture with interval and grade."""
    energy = record.energy
    if energy.mj_per_image_net is None:
        return "-"
    interval = ""
    if energy.ci95_mj_per_image is not None:
        low, high = energy.ci95_mj_per_image
        interval = f" ± {(high - low) / 2:.2g}"
    return f"{energy.mj_per_image_net:.4g}{interval} ({energy.grade})"


def parity_cell(record: BenchRecord) -> str:
    """Mean dB and whether it meets the gate."""
    parity = record.parity
    if parity.passed is None:
        return "-"
    shown = "identical" if parity.identical else figure(parity.mean_db, 1)
    return shown if parity.passed else f"{shown} FAILED"


def labels(records: Sequence[BenchRecord]) -> list[str]:
    """Return a name for each record: its artefact's, with the unit it ran on where that tells two records apart."""
    names = [record.artifact.name for record in records]
    several = {name for name in names if names.count(name) > 1}
    return [
        f"{name}, {record.backend.requested}" if name in several and record.backend.requested else name
        for name, record in zip(names, records, strict=True)
    ]


def remarks(records: Sequence[BenchRecord]) -> list[str]:
    """Return what must be said under the table, once for all records that it is true of."""
    about: dict[str, list[str]] = {}
    for label, record in zip(labels(records), records, strict=True):
        for said in _remarks(record):
            about.setdefault(said, []).append(label)
    return [said if 1 < len(records) == len(named) else f"{'; '.join(named)}: {said}" for said, named in about.items()]


def _remarks(record: BenchRecord) -> list[str]:
    """Failure, flags, and why there is no energy, parity or p99."""
    said = []
    if record.failure is not None:
        said.append(f"failed ({record.failure.stage}): {record.failure.message}")
        if record.timing_ms.n == 0:
            return said  # everything else is missing for that reason
    validity = record.validity
    if validity.flags:
        medians = ", ".join(f"{value:.2f}" for value in validity.repeat_p50_ms)
        more = f" (medians {medians} ms)" if "unstable" in validity.flags else ""
        said.append(f"{', '.join(validity.flags)}{more}")
    if record.energy.mj_per_image_net is None:
        reason = record.energy.reasons["mj_per_image_net"]
        said.append(reason if reason.startswith("no energy") else f"no energy: {reason}")
    if record.parity.passed is None:
        said.append(f"no parity: {record.parity.reasons['passed']}")
    if record.timing_ms.p50 is not None and record.timing_ms.p99 is None:
        said.append(f"no p99: {record.timing_ms.reasons['p99']}")
    sustained = record.sustained
    if sustained is not None:
        clock = "" if sustained.canary_slowdown is None else f", the canary x {sustained.canary_slowdown:.2f}"
        said.append(
            f"{len(sustained.minutes)} minutes: p50 {sustained.first_p50_ms:.2f} -> "
            f"{sustained.steady_p50_ms:.2f} ms (x {sustained.slowdown:.2f}{clock})"
        )
    return said
