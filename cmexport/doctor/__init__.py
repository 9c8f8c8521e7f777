"""What works on this machine, what is missing, and which extra brings it."""

from __future__ import annotations

from collections.abc import Callable

from cmexport.doctor.backends import examine_backends, run_probe
from cmexport.doctor.energy import energy_counters
from cmexport.doctor.findings import Backend, Diagnosis, EnergyCounter, Machine
from cmexport.doctor.machine import examine_machine
from cmexport.doctor.programs import examine_programs
from cmexport.doctor.table import doctor_table
from cmexport.targets.info import Finding, State

__all__ = [
    "Backend",
    "Diagnosis",
    "EnergyCounter",
    "Finding",
    "Machine",
    "State",
    "diagnose",
    "doctor_table",
]


def diagnose(probe: Callable[[str], Finding] = run_probe) -> Diagnosis:
    """Look at this machine; takes about as long as importing every installed backend once (10 s with all of them).

    Args:
        probe: opens one installed library; `run_probe` unless a test replaces it.
    """
    backends = examine_backends(probe) + examine_programs()
    return Diagnosis(machine=examine_machine(), backends=backends, energy_counters=energy_counters())
