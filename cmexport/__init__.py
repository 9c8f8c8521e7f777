"""cmexport: a compiler for consistency models. In: a checkpoint. Out: one verified graph that gives pictures.

import cmexport
model = cmexport.load("cd_imagenet64_l2.pt", sigma_data=0.5)
artifact = cmexport.export(model, "onnx", precision="fp16", steps=2, out="out")
images = artifact.sample(seed=0, label=8, count=4)
cmexport.open(artifact.folder).verify().worst_db
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from cmexport.api import Artifact, GuessWarning, Verification, export, load, open
    from cmexport.checkpoints import load_checkpoint
    from cmexport.errors import (
        BackendError,
        CheckpointError,
        CmexportError,
        OutputError,
        ParityError,
        UsageError,
    )
    from cmexport.exporting import ExportOptions, export_model
    from cmexport.model import ConsistencyModel, SampleRequest

_HOMES = {
    **dict.fromkeys(("Artifact", "GuessWarning", "Verification", "export", "load", "open"), "cmexport.api"),
    **dict.fromkeys(
        ("BackendError", "CheckpointError", "CmexportError", "OutputError", "ParityError", "UsageError"),
        "cmexport.errors",
    ),
    "ConsistencyModel": "cmexport.model",
    "ExportOptions": "cmexport.exporting",
    "SampleRequest": "cmexport.model",
    "export_model": "cmexport.exporting",
    "load_checkpoint": "cmexport.checkpoints",
}

__all__ = [
    "Artifact",
    "BackendError",
    "CheckpointError",
    "CmexportError",
    "ConsistencyModel",
    "ExportOptions",
    "GuessWarning",
    "OutputError",
    "ParityError",
    "SampleRequest",
    "UsageError",
    "Verification",
    "__version__",
    "export",
    "export_model",
    "load",
    "load_checkpoint",
    "open",
]


def __getattr__(name: str) -> Any:
    """Import torch and the rest only when something of it is asked for: `cmexport --help` must not wait for it."""
    if name not in _HOMES:
        raise AttributeError(f"module 'cmexport' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
