"""Power rails of a Perfetto trace (Pixel 6 and newer: ODPM), in text form.

The rails sit behind the battery, so their figures hold while the phone is plugged in. `traceconv text trace.pftrace`
gives the text.

Source: protos/perfetto/trace/power/power_rails.proto: `rail_descriptor { index rail_name subsys_name sampling_rate }`,
`energy_data { index timestamp_ms energy }`, energy in microwatt-seconds since boot.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from cmexport.bench.energy.base import Reading, SourceFacts
from cmexport.errors import CheckpointError

_FLAT = r"\{([^{}]*)\}"
_DESCRIPTOR = re.compile(rf"\brail_descriptor\s*{_FLAT}")
_ENERGY = re.compile(rf"\benergy_data\s*{_FLAT}")
_FIELD = re.compile(r'(\w+)\s*:\s*(?:"((?:[^"\\]|\\.)*)"|(-?\d+))')


def parse_power_rails(text: str) -> tuple[Reading, ...]:
    """Cumulative mJ per rail, rails named `subsystem/rail`; one reading per time stamp, by the phone's boot clock.

    Raises:
        CheckpointError: it holds no power rails.
    """
    names: dict[int, str] = {}
    for match in _DESCRIPTOR.finditer(text):
        fields = _fields(match[1])
        # In text form an index of 0 may be left out: it is the default.
        index = int(fields.get("index", "0"))
        rail = fields.get("rail_name", f"rail {index}")
        names[index] = f"{fields['subsys_name']}/{rail}" if fields.get("subsys_name") else rail
    by_time: dict[int, dict[str, float]] = {}
    for match in _ENERGY.finditer(text):
        fields = _fields(match[1])
        if "timestamp_ms" in fields and "energy" in fields:
            index = int(fields.get("index", "0"))
            name = names.get(index, f"rail {index}")
            by_time.setdefault(int(fields["timestamp_ms"]), {})[name] = int(fields["energy"]) * 1e-3
    if not by_time:
        raise CheckpointError(
            "no power rails in this trace: record the data source android.power with collect_power_rails, on a "
            "phone that has them (Pixel 6 or newer)"
        )
    return tuple(Reading(ms / 1e3, rails) for ms, rails in sorted(by_time.items()))


def rails_facts(readings: Sequence[Reading]) -> SourceFacts:
    """Make a source of grade A of the rails that all readings have; none contains another, so all are added."""
    common = set.intersection(*(set(r.values) for r in readings)) if readings else set()
    return SourceFacts("Perfetto power rails (ODPM)", "energy", "A", tuple(sorted(common)), 0.25)


def _fields(body: str) -> dict[str, str]:
    return {m[1]: m[2] if m[2] is not None else m[3] for m in _FIELD.finditer(body)}
