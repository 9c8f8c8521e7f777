"""From what the user types after --device to a device. Each kind's libraries are imported when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType

from cmexport.bench.devices.base import Device, DeviceOptions
from cmexport.errors import UsageError

_MODULES: Mapping[str, str] = MappingProxyType(
    {
        "local": "cmexport.bench.devices.local",
        "ssh": "cmexport.bench.devices.ssh",
        "adb": "cmexport.bench.devices.adb",
        "browser": "cmexport.bench.devices.browser",
        "folder": "cmexport.bench.devices.folder",
    }
)
FORMS = ("local", "ssh://user@host[:port]", "adb://serial", "browser", "folder://DIR")
"""What --device takes."""


def device_named(spec: str, options: DeviceOptions | None = None) -> Device:
    """Open `local`, `ssh://user@host[:port]`, `adb://serial`, `adb` (the only one attached), `browser` or `folder://DIR`.

    Raises:
        UsageError: it is none of these.
        BackendError: a library or program is missing, or the device can't be reached.
    """
    kind, separator, rest = spec.partition("://")
    # "adb" alone is the phone that is attached; the others either have something after them or have not.
    complete = {"local": not separator, "browser": not separator, "ssh": bool(rest), "folder": bool(rest)}
    if kind not in _MODULES or not complete.get(kind, True):
        raise UsageError(f"--device {spec}: known are {', '.join(FORMS)}")
    opened: Device = import_module(_MODULES[kind]).open_device(rest, options or DeviceOptions())
    return opened
