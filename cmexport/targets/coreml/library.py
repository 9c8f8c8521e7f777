"""The one place that imports coremltools: an extra, and a chatty one."""

from __future__ import annotations

import importlib
import logging
import platform
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from cmexport.errors import BackendError
from cmexport.targets.info import Finding

_LOGGERS = ("coremltools",)

# What coremltools converts besides neural networks; it asks for each of them while it is imported. They bring scipy
# and pandas along: scikit-learn took 1.4 of a profiled import of 2.8 s.
_OTHER_KINDS = ("sklearn", "xgboost", "libsvm")


def coremltools() -> ModuleType:
    """The coremltools package, imported without its notices.

    On import it warns that torch and scikit-learn are newer than the versions it was tested with, and, away from macOS,
    once for each of eight classes of `libcoremlpython` that it can't load. None of them concerns us: parity tests cover
    the first, and nothing here predicts with Apple's runtime on other systems.

    Its converters for scikit-learn, XGBoost and libsvm find their libraries missing in this process, unless these are
    imported before; the libraries themselves can be imported afterwards as ever.

    Raises:
        BackendError: it isn't installed.
    """
    return _quietly("coremltools")


def specification() -> tuple[Any, type[Exception]]:
    """`Model_pb2`, the protobuf classes of a saved model, and what they raise on damaged bytes.

    Raises:
        BackendError: coremltools isn't installed.
    """
    _quietly("coremltools")
    error: type[Exception] = importlib.import_module("google.protobuf.message").DecodeError
    return importlib.import_module("coremltools.proto.Model_pb2"), error


def _quietly(name: str) -> ModuleType:
    for logger in _LOGGERS:
        logging.getLogger(logger).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), _absent(_OTHER_KINDS):
            warnings.simplefilter("ignore")
            module = importlib.import_module(name)
    except ImportError as error:
        raise BackendError(
            "Core ML packages need coremltools, which isn't installed: pip install 'cmexport[coreml]'"
        ) from error
    # The package sets its own level while it is imported.
    for logger in _LOGGERS:
        logging.getLogger(logger).setLevel(logging.ERROR)
    return module


@contextmanager
def _absent(names: tuple[str, ...]) -> Iterator[None]:
    """Importing these fails, as if they weren't installed; those that are imported already stay so."""
    hidden: dict[str, Any] = {name: None for name in names if name not in sys.modules}
    sys.modules.update(hidden)
    try:
        yield
    finally:
        for name in hidden:
            sys.modules.pop(name, None)


def probe() -> Finding:
    """Whether it converts and saves here, and whether Apple's kernels can run."""
    numpy = importlib.import_module("numpy")
    if tuple(int(part) for part in numpy.__version__.split(".")[:2]) >= (2, 4):
        return Finding("limited", f"fails to convert with numpy {numpy.__version__}", "pip install 'numpy<2.4'")
    importlib.import_module("coremltools")
    try:
        importlib.import_module("coremltools.libmilstoragepython")
    except ImportError:
        return Finding("broken", "its weight writer is not built for this Python; packages can't be saved")
    if platform.system() != "Darwin":
        return Finding("works", "converts; Apple's own kernels run on macOS only")
    return Finding("works", "converts and runs")
