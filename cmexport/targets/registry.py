"""Targets by name. A new one is a folder with an `info.py`, and its line here."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from cmexport.errors import UsageError
from cmexport.targets.info import TargetInfo

if TYPE_CHECKING:
    from cmexport.targets.base import Target

_MODULES = (
    "cmexport.targets.onnx.info",
    "cmexport.targets.coreml.info",
    "cmexport.targets.coreai.info",
    "cmexport.targets.tensorrt.info",
)

INFOS: dict[str, TargetInfo] = {info.name: info for info in (import_module(name).INFO for name in _MODULES)}
"""Descriptors by name, in the order in which `cmexport --help` lists them."""


def target_info(name: str) -> TargetInfo:
    """The descriptor of the target called `name`.

    Raises:
        UsageError: no such target.
    """
    if name not in INFOS:
        raise UsageError(f"unknown target '{name}'; known: {', '.join(INFOS)}")
    return INFOS[name]


def target_named(name: str) -> Target:
    """The target called `name`; this imports it.

    Raises:
        UsageError: no such target.
    """
    target: Target = _opened(target_info(name).loader)
    return target


@cache
def _opened(loader: str) -> Any:
    return resolve_name(loader)()
