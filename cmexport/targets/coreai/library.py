"""The one place that imports Apple's packages: an extra, pre-releases, and chatty ones."""

from __future__ import annotations

import importlib
import os
import platform
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from types import ModuleType

from cmexport.errors import BackendError, first_line
from cmexport.targets.info import Finding

_STDERR = 2


def converter() -> ModuleType:
    """The coreai_torch package.

    It warns that torch 2.13.0+cpu is newer than 2.13.0, the version it was made for; parity tests cover that.

    Raises:
        BackendError: it isn't installed, or can't be loaded here.
    """
    return _import("coreai_torch")


def assets() -> ModuleType:
    """`coreai.authoring`, which reads and runs written assets.

    Raises:
        BackendError: it isn't installed, or can't be loaded here.
    """
    return _import("coreai.authoring")


def runtime() -> ModuleType:
    """`coreai.runtime`, which has the arrays that go in and out.

    Raises:
        BackendError: it isn't installed, or can't be loaded here.
    """
    return _import("coreai.runtime")


def _import(name: str) -> ModuleType:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise BackendError(
            "Core AI needs Apple's pre-releases coreai-torch and coreai-core, which aren't installed: "
            "pip install 'cmexport[coreai]' (x86-64 Linux, or macOS 26 on Apple silicon)"
        ) from error
    except ImportError as error:  # an older glibc than 2.34, for one
        reason = first_line(error)
        raise BackendError(f"Core AI's packages are installed but can't be loaded here: {reason}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the converter, which writes what it is doing to stdout."""
    with redirect_stdout(StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def quiet_runtime() -> Iterator[None]:
    """Silence what compiled code writes to stderr while it loads a graph ("ODIE [default]: Loading function")."""
    sys.stderr.flush()
    kept, nowhere = os.dup(_STDERR), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, _STDERR)
        yield
    finally:
        os.dup2(kept, _STDERR)
        os.close(kept)
        os.close(nowhere)


def probe() -> Finding:
    """Whether its runtime passes an array through."""
    importlib.import_module("coreai_torch")
    runtime = importlib.import_module("coreai.runtime")
    numpy = importlib.import_module("numpy")
    # The runtime is compiled code of its own: an array that goes in and comes out has passed through it.
    if float(runtime.NDArray(numpy.ones(1, numpy.float32)).numpy()[0]) != 1.0:
        return Finding("broken", "its runtime doesn't return the array it was given")
    where = "" if platform.system() == "Darwin" else " on the CPU"
    return Finding("works", f"pre-release; converts, and runs{where}")
