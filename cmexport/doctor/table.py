"""A diagnosis for the terminal; readable at 80 columns."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cmexport.doctor.findings import Backend, Diagnosis, Machine
from cmexport.targets.info import State

_STYLES: Mapping[State, str] = MappingProxyType(
    {"works": "green", "limited": "yellow", "broken": "bold red", "missing": "dim"}
)


def doctor_table(diagnosis: Diagnosis) -> RenderableType:
    """Lay the diagnosis out for a terminal: machine, backends, energy counters, commands that mend what is missing."""
    return Group(
        _machine_table(diagnosis.machine), _backend_table(diagnosis), _energy_table(diagnosis), _verdict(diagnosis)
    )


def _machine_table(machine: Machine) -> Table:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    memory = "unknown" if machine.memory_bytes is None else f"{machine.memory_bytes / 2**30:.1f} GiB"
    features = ", ".join(machine.cpu_features) or "none known"
    for key, value in (
        ("Python", machine.python),
        ("System", machine.system),
        ("Processor", machine.processor or "unknown"),
        ("Cores", f"{machine.cores_usable} of {machine.cores} usable"),
        ("Memory", memory),
        ("Instructions", features),
    ):
        table.add_row(Text(key, style="bold"), Text(value))
    return table


def _backend_table(diagnosis: Diagnosis) -> Table:
    table = Table(title="Backends", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("backend", "state", "version"):
        table.add_column(column, no_wrap=True)
    table.add_column("what it is for, and what was found")
    for b in diagnosis.backends:
        table.add_row(Text(b.name), Text(b.state, style=_STYLES[b.state]), Text(b.version or ""), _story(b))
    return table


def _story(backend: Backend) -> Text:
    said = backend.purpose
    if backend.state != "missing" and backend.detail != "installed":
        said += f": {backend.detail}"
    story = Text(said)
    if backend.remedy:
        # On a line of its own, so that it can be copied whole from a narrow terminal.
        story.append(f"\n{backend.remedy}", style="cyan")
    return story


def _energy_table(diagnosis: Diagnosis) -> Table:
    table = Table(
        title="Energy counters", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False
    )
    for column in ("counter", "readable"):
        table.add_column(column, no_wrap=True)
    table.add_column("found")
    for counter in diagnosis.energy_counters:
        readable = Text("yes", style="green") if counter.readable else Text("no", style="dim")
        table.add_row(Text(counter.name), readable, Text(counter.detail))
    return table


def _verdict(diagnosis: Diagnosis) -> Text:
    if diagnosis.ready:
        return Text("Ready: cmexport can read checkpoints, export to ONNX and verify.", style="green")
    failed = ", ".join(b.name for b in diagnosis.backends if b.required and b.state not in ("works", "limited"))
    return Text(f"Not ready: {failed}. Mend these first.", style="bold red")
