"""The whole diagnosis: when it says ready, what it prints, and what it gives as JSON."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from rich.console import Console

from cmexport.doctor import Backend, Diagnosis, EnergyCounter, Finding, Machine, diagnose, doctor_table

MACHINE = Machine("3.11.7", "Linux 6.1 x86_64", None, 8, 2, 24 * 2**30, ("avx2", "avx512_vnni"))
TORCH = Backend("torch", "is the reference", "works", "2.13.0", "CPU, 2 threads", None, required=True)
COREML = Backend("coremltools", "Core ML packages", "missing", None, "not installed", "pip install 'x[coreml]'", False)
RAPL = EnergyCounter("RAPL", False, "no powercap zones")
DIAGNOSIS = Diagnosis(MACHINE, (TORCH, COREML), (RAPL,))


def shown(diagnosis: Diagnosis, width: int = 80) -> str:
    console = Console(width=width, no_color=True)
    with console.capture() as capture:
        console.print(doctor_table(diagnosis))
    return capture.get()


def test_an_optional_backend_does_not_matter_for_ready():
    assert DIAGNOSIS.ready


@pytest.mark.parametrize("state", ["broken", "missing"])
def test_a_required_backend_does(state):
    hurt = replace(DIAGNOSIS, backends=(replace(TORCH, state=state), COREML))
    assert not hurt.ready
    assert "Not ready: torch" in shown(hurt)


def test_the_table_shows_findings_and_remedies_at_80_columns():
    text = shown(DIAGNOSIS)
    for words in (
        "2 of 8 usable",
        "24.0 GiB",
        "avx512_vnni",
        "CPU, 2 threads",
        "pip install 'x[coreml]'",
        "no powercap",
    ):
        assert words in text
    assert max(len(line) for line in text.splitlines()) <= 80


def test_square_brackets_in_findings_are_not_markup():
    odd = replace(TORCH, detail="[red]not markup[/red]")
    assert "[red]not markup[/red]" in shown(replace(DIAGNOSIS, backends=(odd,)))


def test_json_is_plain_and_keeps_none():
    plain = DIAGNOSIS.to_json()
    assert json.loads(json.dumps(plain)) == plain
    assert plain["ready"] is True
    assert plain["machine"]["processor"] is None
    assert plain["machine"]["cpu_features"] == ["avx2", "avx512_vnni"]
    assert plain["backends"][1]["remedy"] == "pip install 'x[coreml]'"
    assert plain["energy_counters"][0]["readable"] is False


def test_diagnose_asks_the_probe_and_looks_at_this_machine():
    found = diagnose(probe=lambda name: Finding("works", f"opened {name}"))
    assert found.ready
    assert found.machine.python
    assert {b.detail for b in found.backends if b.name == "torch"} == {"opened torch"}
    assert shown(found)
