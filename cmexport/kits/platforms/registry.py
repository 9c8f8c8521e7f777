"""Platforms by name. A new one is a file here, a folder of templates, and its line."""

from __future__ import annotations

from importlib import import_module

from cmexport.errors import UsageError
from cmexport.kits.platforms.info import Platform

_MODULES = ("python", "cpp", "web", "android", "ios")

PLATFORMS: dict[str, Platform] = {
    platform.name: platform
    for platform in (import_module(f"cmexport.kits.platforms.{name}").PLATFORM for name in _MODULES)
}


def platform_named(name: str) -> Platform:
    """Find a platform.

    Raises:
        UsageError: no such platform.
    """
    if name not in PLATFORMS:
        raise UsageError(f"--platform {name}: known are {', '.join(PLATFORMS)}")
    return PLATFORMS[name]
