"""A parity report for people: a rich table, and the verdict in one sentence."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from cmexport.parity.ladder import ParityReport, RungResult
from cmexport.parity.metrics import PictureDifference
from cmexport.parity.sensitivity import TextSensitivity


def _db(difference: PictureDifference, value: float | None) -> str:
    if value is not None:
        return f"{value:.1f}"
    return "identical" if difference.identical else "-"


def _share(share: float) -> str:
    if share == 0.0:
        return "0"
    # Below 0.001 % a rounded figure would read as zero, and zero is a stronger claim.
    return f"{100.0 * share:.3f}" if share >= 1e-5 else "<0.001"


def _amount(difference: PictureDifference) -> str:
    mean = _db(difference, difference.mean_db)
    return f"mean {mean} dB" if difference.mean_db is not None else mean


def applied_gate(report: ParityReport, rung: RungResult) -> float:
    """Return the gate that a rung had to meet, in dB."""
    return report.applied_gate_db if rung.own_gate_db is None else rung.own_gate_db


def _gate(report: ParityReport, rung: RungResult) -> str:
    return f"{applied_gate(report, rung):.4g}"


def verdict(report: ParityReport) -> str:
    """Return the outcome in one sentence."""
    last = report.rungs[-1]
    if report.passed:
        how = (
            "draws exactly the reference's pictures"
            if last.difference.identical
            else f"draws the reference's pictures at {_amount(last.difference)}, gate {_gate(report, last)} dB"
        )
        return f"Passed: over {report.pictures} pictures, {last.name} {how}."
    if report.reference_non_finite:
        return (
            f"Failed: the reference itself ({report.reference}) gives {report.reference_non_finite} NaN or Inf numbers "
            f"in {report.pictures} pictures."
        )
    bad = next(rung for rung in report.rungs if not rung.passed)
    broken, follows = bad.difference.non_finite, bad.sensitivity
    misses = [f"with {broken} NaN or Inf numbers"] if broken else []
    if not broken and not bad.difference.passes(applied_gate(report, bad)):
        misses.append(f"at {_amount(bad.difference)} instead of {_gate(report, bad)} dB{_origin(report)}")
    if not broken and follows is not None and not follows.passed:
        misses.append(f"its pictures {_reacts(follows)} ({text_sensitivity(follows)})")
    return f"Failed: {bad.name} is the first rung outside the gate, {'; '.join(misses)}."


def _reacts(follows: TextSensitivity) -> str:
    if follows.ratio is None or follows.ratio > follows.high:
        return "change too much with the prompt"
    return "hardly follow the prompt" if follows.ratio < 0.3 else "follow the prompt too weakly"


def _origin(report: ParityReport) -> str:
    return f" ({report.gate_origin})" if report.gate_origin else ""


def text_sensitivity(found: TextSensitivity) -> str:
    """Return how pictures follow prompts, with the gate: "text sensitivity 0.05, gate 0.95 to 1.05"."""
    ratio = "not finite" if found.ratio is None else f"{found.ratio:.3g}" if found.ratio < 0.1 else f"{found.ratio:.3f}"
    return f"text sensitivity {ratio}, gate {found.low:g} to {found.high:g}"


def notes(report: ParityReport) -> list[str]:
    """Sentences that qualify the table: pictures left out, what a gate in bytes means, PyTorch's own error."""
    said = []
    if report.pictures < report.pictures_asked:
        why = "since they leave no doubt" if report.settled else "to keep within the time budget"
        said.append(f"{report.pictures} of {report.pictures_asked} pictures were run, {why}.")
    if report.output == "uint8":
        said.append(
            f"Pictures are compared as bytes: the gate of {report.gate_db:.4g} dB for floats is "
            f"{report.applied_gate_db:.1f} dB there."
        )
    if report.gate_origin:
        said.append(f"Gate {report.gate_db:.4g} dB: {report.gate_origin}, since the sampler multiplies rounding.")
    if (follows := report.sensitivity) is not None:
        spread = "" if follows.ratio is None else f" ({follows.least:.3f} to {follows.most:.3f})"
        cosine = "" if follows.cosine is None else f", cosine {follows.cosine:.4f}"
        said.append(f"Over {follows.pairs} pairs of prompts: {text_sensitivity(follows)}{spread}{cosine}.")
    if report.exact is not None:
        own, candidate = report.exact.reference, report.exact.candidate
        said.append(
            f"Against float64 ({report.exact.pictures} pictures): {report.reference} {_amount(own)}, "
            f"max {own.max_abs:.1e}; {report.rungs[-1].name} {_amount(candidate)}, max {candidate.max_abs:.1e}."
        )
    return said


def parity_table(report: ParityReport) -> Table:
    """Return the ladder, one row a rung; the notes are the caption."""
    last = report.seed + report.pictures - 1
    table = Table(
        # Text, not str: a rung's name may hold square brackets, which rich would take for markup.
        title=Text(f"Parity with {report.reference} over {report.pictures} pictures (seeds {report.seed} to {last})"),
        caption=Text("\n".join(notes(report))) if notes(report) else None,
        caption_justify="left",
        title_justify="left",
    )
    table.add_column("rung")
    for heading in ("mean dB", "min dB", "max abs", "bytes ≥1 %", "≥2 %", "≥4 %", "NaN/Inf", "gate dB"):
        table.add_column(heading, justify="right")
    table.add_column("verdict")
    for rung in report.rungs:
        found = rung.difference
        table.add_row(
            Text(rung.name if found.pictures == report.pictures else f"{rung.name} ({found.pictures} pictures)"),
            _db(found, found.mean_db),
            _db(found, found.min_db),
            f"{found.max_abs:.1e}" if found.max_abs else "0",
            _share(found.off_by_1),
            _share(found.off_by_2),
            _share(found.off_by_4),
            str(found.non_finite),
            _gate(report, rung),
            Text("passed", style="green") if rung.passed else Text("FAILED", style="bold red"),
        )
    return table
