"""Opens coremltools, for doctor."""

from __future__ import annotations

import importlib
import platform

from cmexport.targets.info import Finding


def coremltools() -> Finding:
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
