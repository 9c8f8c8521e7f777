"""The one place that imports TensorRT: which of its three kinds is installed, and where they differ.

* TensorRT for RTX (`tensorrt_rtx`) builds engines for any RTX GPU on any machine, also one without a GPU; the GPU's
  driver finishes them when they are first loaded.
* TensorRT 10.12 and later, and 11 (`tensorrt`), build for the GPU at hand, and need one.

Networks are strongly typed in all of them: the types in the ONNX file are what is computed. TensorRT 11 knows nothing
else and may drop the flag; where the flag exists it is passed.
"""

from __future__ import annotations

import ctypes.util
import importlib
import re
from collections.abc import Collection
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from cmexport.errors import BackendError, UsageError, first_line
from cmexport.targets.info import Finding

CHOICES = ("auto", "rtx", "10", "11")
OLDEST = (10, 12)
"""The first TensorRT whose strongly typed networks take everything that is written here."""

# What an engine can be built for, as `--sm` has it; the library's own list, where it has one, is asked as well.
_SM = re.compile(r"SM(\d+)$")

_INSTALL_RTX = "pip install 'cmexport[tensorrt]'"
_INSTALL = "pip install tensorrt (on a Jetson: part of JetPack)"


@dataclass(frozen=True)
class Library:
    """An imported TensorRT: its version and what it builds for.

    Attributes:
        module: the Python package.
        version: as the package says, "1.7.1.116".
        rtx: whether it is TensorRT for RTX.
    """

    module: ModuleType
    version: str
    rtx: bool

    @property
    def title(self) -> str:
        """The library's name for people and manifests: "TensorRT for RTX 1.7.1.116"."""
        return f"TensorRT {'for RTX ' if self.rtx else ''}{self.version}"

    @property
    def sms(self) -> tuple[int, ...]:
        """Compute capabilities that engines can be built for without that GPU; none where the GPU must be there."""
        names = getattr(getattr(self.module, "ComputeCapability", None), "__members__", ())
        return tuple(sorted(int(m.group(1)) for m in map(_SM.match, names) if m))

    def flag(self, family: str, name: str) -> Any:
        """A member of one of the library's enumerations, or None where this version has no such member."""
        return getattr(getattr(self.module, family, None), name, None)


def find_library(request: str = "auto") -> Library | None:
    """The TensorRT that `--trt` asks for; with "auto" the first that is installed, for RTX first, or None.

    Raises:
        UsageError: an unknown request.
        BackendError: the one that is asked for isn't installed, or can't be loaded; or it is older than 10.12.
    """
    if request not in CHOICES:
        raise UsageError(f"--trt {request}: known are {', '.join(CHOICES)}")
    if request in ("auto", "rtx"):
        module = _import("tensorrt_rtx")
        if module is not None:
            return Library(module, str(module.__version__), rtx=True)
        if request == "rtx":
            raise BackendError(f"TensorRT for RTX isn't installed: {_INSTALL_RTX}")
    module = _import("tensorrt")
    if module is None:
        if request == "auto":
            return None
        raise BackendError(f"TensorRT {request} isn't installed: {_INSTALL}")
    library = Library(module, str(module.__version__), rtx=False)
    if _numbers(library.version) < OLDEST:
        raise BackendError(f"TensorRT {library.version} is too old: strongly typed networks need 10.12 or later")
    if request != "auto" and _numbers(library.version)[0] != int(request):
        raise BackendError(f"--trt {request}: TensorRT {library.version} is installed; leave --trt out to use it")
    return library


def require_library(request: str = "auto") -> Library:
    """Find a TensorRT as `find_library` does, for work that can't be done without one.

    Raises:
        UsageError, BackendError: see there; also none is installed.
    """
    library = find_library(request)
    if library is None:
        raise BackendError(f"no TensorRT is installed: {_INSTALL_RTX}, or {_INSTALL}")
    return library


def check_sms(library: Library, sms: Collection[int]) -> None:
    """Refuse GPUs that this library can't build for.

    Raises:
        BackendError: one is unknown to it.
        UsageError: this library builds for the GPU at hand only.
    """
    if not sms:
        return
    if not library.sms:
        raise UsageError(f"--sm: {library.title} builds for the GPU in this machine; --sm is for --trt rtx")
    for sm in sms:
        if sm not in library.sms:
            known = ", ".join(map(str, library.sms))
            raise BackendError(f"--sm {sm}: {library.title} builds for {known}")


def _import(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name == name:
            return None
        raise BackendError(f"{name} is installed but can't be loaded here: {first_line(error)}") from error
    except (ImportError, OSError, RuntimeError) as error:  # a missing or mismatched shared library, for one
        raise BackendError(f"{name} is installed but can't be loaded here: {first_line(error)}") from error


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", version)[:2])


def probe_rtx() -> Finding:
    """TensorRT for RTX: whether it builds engines, and can run them."""
    return _open("tensorrt_rtx")


def probe() -> Finding:
    """TensorRT proper, likewise."""
    return _open("tensorrt")


def _open(module: str) -> Finding:
    trt = importlib.import_module(module)
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    if builder is None:
        return Finding("broken", "the builder could not be created")
    if ctypes.util.find_library("cuda") is None:
        return Finding("limited", "builds engines; no NVIDIA driver here to run them")
    return Finding("works", "builds engines; NVIDIA driver present")
