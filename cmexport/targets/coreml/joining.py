"""Several packages of one model become one package with a function for each, weights stored once."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from cmexport.errors import BackendError, first_line
from cmexport.targets.base import LoweredModel
from cmexport.targets.coreml.library import coremltools
from cmexport.targets.coreml.lower import quiet
from cmexport.targets.coreml.package import join_descriptions, make_deterministic, package_files, package_of

LEAST_IOS = 18
"""Packages with several functions came with iOS 18."""


def join(folder: Path, lowered: Mapping[str, LoweredModel], name: str = "model") -> Mapping[str, LoweredModel]:
    """One `<name>.mlpackage` with a function per graph, under the graphs' names; the first one is the default.

    Below iOS 18 every graph keeps its package.

    Raises:
        BackendError: coremltools refuses.
        OSError: the package can't be written.
    """
    if any(int(model.session["ios"]) < LEAST_IOS for model in lowered.values()):
        return lowered
    ct = coremltools()
    packages = {function: package_of(folder, model.files) for function, model in lowered.items()}
    joined = folder / f"{name}.mlpackage"
    try:
        with quiet():
            plan = ct.utils.MultiFunctionDescriptor()
            for function, package in packages.items():
                plan.add_function(str(package), src_function_name="main", target_function_name=function)
            plan.default_function_name = next(iter(packages))
            ct.utils.save_multifunction(plan, str(joined))
    except OSError:
        raise
    except Exception as error:  # coremltools raises a family of unrelated classes
        reason = first_line(error)
        raise BackendError(f"Core ML: these graphs can't be put into one package: {reason}") from error
    join_descriptions(joined, packages)
    make_deterministic(joined)
    for package in packages.values():
        shutil.rmtree(package)
    files = package_files(joined)
    return {function: replace(model, files=files) for function, model in lowered.items()}
