"""The nouns of a diagnosis: machine, backends, energy counters. Plain data; nothing here looks at anything."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from cmexport.targets.info import State


@dataclass(frozen=True)
class Machine:
    """The computer, as far as it decides what runs and how fast.

    Attributes:
        python: interpreter version, e.g. "3.11.7".
        system: operating system and architecture, e.g. "Linux-6.1 x86_64".
        processor: its own name, None where the system does not tell.
        cores: logical cores.
        cores_usable: logical cores this process may run on.
        memory_bytes: installed memory, None where the system does not tell.
        cpu_features: those of `CPU_FEATURES` that it has, in that order.
    """

    python: str
    system: str
    processor: str | None
    cores: int
    cores_usable: int
    memory_bytes: int | None
    cpu_features: tuple[str, ...]


@dataclass(frozen=True)
class Backend:
    """A library: whether it works here, and how to get it.

    Attributes:
        name: as users know it.
        purpose: what cmexport needs it for.
        state: "works"; "limited" (installed, but a part can't run here); "broken" (installed, fails); "missing".
        version: of the installed distribution.
        detail: what was found, one line.
        remedy: the command that mends it, None when there is nothing to mend.
        required: whether cmexport can't work without it.
    """

    name: str
    purpose: str
    state: State
    version: str | None
    detail: str
    remedy: str | None
    required: bool


@dataclass(frozen=True)
class EnergyCounter:
    """One hardware energy counter; `detail` says what it covers or why it can't be read."""

    name: str
    readable: bool
    detail: str


@dataclass(frozen=True)
class Diagnosis:
    """All findings of one look at this machine."""

    machine: Machine
    backends: tuple[Backend, ...]
    energy_counters: tuple[EnergyCounter, ...]

    @property
    def ready(self) -> bool:
        """Whether everything that cmexport can't work without works."""
        return all(b.state in ("works", "limited") for b in self.backends if b.required)

    def to_json(self) -> dict[str, Any]:
        """Plain data: str, int, bool, None, lists and dicts only."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return {"ready": self.ready, **plain}
