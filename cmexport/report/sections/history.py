"""Runs that are not shown because a newer one is."""

from __future__ import annotations

from cmexport.report.material import Material
from cmexport.report.text import clean, day, number
from cmexport.report.view import Cell, Section, Table, measured


def section(material: Material) -> Section:
    """Make the section of all older runs."""
    rows = tuple(
        (
            Cell(shown.label),
            Cell(day(run.record.provenance.created)),
            measured(number(run.timing.p50)),
            Cell(str(run.timing.n)),
            measured(number(run.energy.mj_per_image_net)),
            Cell(clean(", ".join(run.record.validity.flags)) or "none"),
        )
        for shown in material.shown
        for run in shown.older
    )
    head = ("run", "measured", "p50, ms", "runs", "net, mJ", "flags")
    return Section(
        "older",
        "Older runs",
        "Of each artefact on each device the newest run is shown above; these came before.",
        tables=(Table(f"{len(rows)} older runs", head, rows),) if rows else (),
    )
