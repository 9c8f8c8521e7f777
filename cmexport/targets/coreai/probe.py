"""Opens Core AI's libraries, for doctor."""

from __future__ import annotations

import importlib
import platform

from cmexport.targets.info import Finding


def coreai() -> Finding:
    """Whether its runtime passes an array through."""
    importlib.import_module("coreai_torch")
    runtime = importlib.import_module("coreai.runtime")
    numpy = importlib.import_module("numpy")
    # The runtime is compiled code of its own: an array that goes in and comes out has passed through it.
    if float(runtime.NDArray(numpy.ones(1, numpy.float32)).numpy()[0]) != 1.0:
        return Finding("broken", "its runtime doesn't return the array it was given")
    where = "" if platform.system() == "Darwin" else " on the CPU"
    return Finding("works", f"pre-release; converts, and runs{where}")
