"""cmexport: a compiler for consistency models. In: a checkpoint. Out: one verified graph that gives pictures.

import cmexport
model = cmexport.load_checkpoint("cd_imagenet64_l2.pt")
model = cmexport.load(my_network, {"precond": "cm", "image_size": "32"})
cmexport.export_model(model, cmexport.SampleRequest(), cmexport.ExportOptions(), Path("out"))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from cmexport.checkpoints import load, load_checkpoint
    from cmexport.export import ExportOptions, export_model
    from cmexport.model import ConsistencyModel, SampleRequest

__all__ = [
    "ConsistencyModel",
    "ExportOptions",
    "SampleRequest",
    "__version__",
    "export_model",
    "load",
    "load_checkpoint",
]

_HOMES = {
    "ConsistencyModel": "cmexport.model",
    "ExportOptions": "cmexport.export",
    "SampleRequest": "cmexport.model",
    "export_model": "cmexport.export",
    "load": "cmexport.checkpoints",
    "load_checkpoint": "cmexport.checkpoints",
}


def __getattr__(name: str) -> Any:
    """Import torch and the rest only when something of it is asked for: `cmexport --help` must not wait for it."""
    if name not in _HOMES:
        raise AttributeError(f"module 'cmexport' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
