"""Energy per picture, and how many pictures a battery holds."""

from __future__ import annotations

from cmexport.bench.energy.window import GRADES
from cmexport.report.battery import Charge, battery_of, charge
from cmexport.report.charts.bars import Bar, draw_bars
from cmexport.report.material import Material
from cmexport.report.selecting import Shown
from cmexport.report.text import NOT_MEASURED, clean, grouped, interval, number
from cmexport.report.view import Cell, Chart, Section, Table, measured

_HEAD = ("run", "net, mJ", "95 % interval", "gross, mJ", "grade", "source", "active, W", "idle before / after, W")
_BATTERY = ("run", "battery", "pictures per 1 %", "pictures per charge", "band", "source of the capacity")


def section(material: Material) -> Section:
    """Net millijoules with error bars and grades."""
    bars = []
    for shown in material.shown:
        energy = shown.run.energy
        if energy.mj_per_image_net is not None:
            low, high = energy.ci95_mj_per_image or (None, None)
            value = f"{number(energy.mj_per_image_net, 3)} mJ ({energy.grade})"
            bars.append(Bar(shown.label, (energy.mj_per_image_net,), low, high, value))
    title = "Net energy per picture, with 95 % intervals and grades"
    chart = Chart(
        "energy",
        title,
        "Bars in millijoules per picture with error bars; the letter is the grade of the source.",
        lambda width: draw_bars("energy", title, "Millijoules per picture.", bars, (), "mJ", width),
    )
    notes = [f"grade {grade}: {meaning}" for grade, meaning in GRADES.items()] if bars else []
    notes += grouped(
        (s.label, clean(s.run.energy.reasons["mj_per_image_net"], 300))
        for s in material.shown
        if s.run.energy.mj_per_image_net is None
    )
    return Section(
        "energy",
        "Energy",
        "Millijoules per picture, with the idle power subtracted (net) and without (gross).",
        charts=(chart,) if bars else (),
        tables=(Table("Energy per picture", _HEAD, tuple(_row(s) for s in material.shown)),) if bars else (),
        notes=tuple(notes),
    )


def battery(material: Material) -> Section:
    """Pictures per percent and per charge, where energy was measured and the battery is known."""
    rows, notes = [], []
    for shown in material.shown:
        model = shown.run.record.device.model
        known = battery_of(model) or material.battery
        if known is None:
            if shown.run.energy.mj_per_image_net is not None:
                said = "no model named" if model is None else f"'{clean(model, 60)}' is not in the table of batteries"
                notes.append((shown.label, f"{said}; --battery WH gives its capacity"))
            continue
        found = charge(known, shown.run.energy)
        if found is None:
            notes.append((shown.label, f"energy {NOT_MEASURED}"))
            continue
        rows.append(_charge(shown, found))
    return Section(
        "battery",
        "Battery",
        "Pictures from measured net energy and the rated capacity of a new battery: what generating alone takes, "
        "without screen, radio or the app. The band joins the energy's 95 % interval and the capacity's tolerance.",
        tables=(Table("Pictures per battery charge", _BATTERY, tuple(rows)),) if rows else (),
        notes=tuple(grouped(notes)),
    )


def _row(shown: Shown) -> tuple[Cell, ...]:
    energy = shown.run.energy
    low, high = energy.ci95_mj_per_image or (None, None)
    idle = (energy.idle_before_w, energy.idle_after_w)
    return (
        Cell(shown.label),
        measured(number(energy.mj_per_image_net)),
        measured(interval(low, high)),
        measured(number(energy.mj_per_image_gross)),
        Cell(energy.grade),
        measured(clean(energy.source, 60) if energy.source else NOT_MEASURED),
        measured(number(energy.active_w, 3)),
        measured(NOT_MEASURED if None in idle else " / ".join(number(w, 3) for w in idle)),
    )


def _charge(shown: Shown, found: Charge) -> tuple[Cell, ...]:
    return (
        Cell(shown.label),
        Cell(f"{found.battery.name}, {number(found.battery.wh, 3)} Wh"),
        Cell(number(found.per_percent, 3)),
        Cell(number(found.per_charge, 3)),
        measured(interval(found.low, found.high)),
        Cell(found.battery.source),
    )
