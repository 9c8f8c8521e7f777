"""`cmexport doctor`: what works here."""

from __future__ import annotations

import typer

from cmexport.cli import console
from cmexport.cli import options as o
from cmexport.doctor import diagnose, doctor_table


def command(as_json: o.AsJson = False) -> None:
    """What works on this machine, what is missing, and how to get it. Exit code 5 if exporting itself can't work."""
    diagnosis = diagnose()
    if as_json:
        console.emit_json(diagnosis.to_json())
    else:
        console.say(doctor_table(diagnosis))
    if not diagnosis.ready:
        raise typer.Exit(5)
