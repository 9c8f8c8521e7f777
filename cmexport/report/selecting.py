"""Which run of each artefact on each device is shown, and what it is called."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from cmexport.bench.schema import DeviceRecord
from cmexport.report.runs import Run
from cmexport.report.text import clean


@dataclass(frozen=True)
class Shown:
    """The newest run of one artefact on one device and runtime.

    Attributes:
        run: the newest.
        label: artefact, and device and unit where they tell two runs apart.
        device: the device's name, for people.
        unit: runtime and execution provider.
        older: earlier runs of the same, newest first.
        sustained: the newest run that has minutes of back-to-back runs.
    """

    run: Run
    label: str
    device: str
    unit: str
    older: tuple[Run, ...]
    sustained: Run | None


def select(runs: Sequence[Run]) -> tuple[Shown, ...]:
    """Take the newest run of each artefact, batch, sampler, device and unit; in order of device, unit and artefact."""
    groups: dict[tuple[object, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault(_key(run), []).append(run)
    devices = _device_names([run.record.device for run in runs])
    several_devices = len(set(devices.values())) > 1
    ordered = []
    for group in groups.values():
        newest, *earlier = sorted(group, key=lambda r: r.record.provenance.created, reverse=True)
        sustained = next((r for r in (newest, *earlier) if r.sustained is not None), None)
        ordered.append((newest, tuple(earlier), sustained))
    plain = Counter(_name(run) for run, _, _ in ordered)
    shown = []
    for run, older, sustained in ordered:
        record = run.record
        device, unit = devices[_identity(record.device)], f"{record.backend.name} {record.backend.requested}"
        label = _name(run)
        if several_devices:
            label = f"{label} · {device}"
        if plain[_name(run)] > 1:
            label = f"{label} · {record.backend.requested}"
        shown.append(Shown(run, clean(label), clean(device), clean(unit), older, sustained))
    return tuple(sorted(shown, key=lambda s: (s.device, s.unit, s.run.record.artifact.name, s.label)))


def _key(run: Run) -> tuple[object, ...]:
    record = run.record
    artifact, backend = record.artifact, record.backend
    what = (artifact.sha256, artifact.task, artifact.batch, run.sampler, run.evaluations)
    return (*what, _identity(record.device), backend.name, backend.requested, backend.threads)


def _name(run: Run) -> str:
    artifact = run.record.artifact
    return artifact.name if artifact.batch == 1 else f"{artifact.name}, batch {artifact.batch}"


def _identity(device: DeviceRecord) -> tuple[object, ...]:
    """Return what stays the same when a device is measured again: a phone's address is not among it."""
    address = device.name if device.kind == "ssh" else ""
    return (device.kind, address, device.model, device.processor, device.accelerator)


def _device_names(devices: Sequence[DeviceRecord]) -> dict[tuple[object, ...], str]:
    """Return a name for each; how it was addressed is added where two would have the same."""
    names = {_identity(d): _device_name(d) for d in devices}
    addresses = {_identity(d): d.name for d in devices}
    twice = {name for name, number in Counter(names.values()).items() if number > 1}
    return {key: f"{name} ({addresses[key]})" if name in twice else name for key, name in names.items()}


def _device_name(device: DeviceRecord) -> str:
    known = device.model or device.accelerator or device.processor
    if known is None:
        return f"{device.kind}, {device.os}" if device.os else device.name
    return known
