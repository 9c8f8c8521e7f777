"""Whether an engine of an artefact can be run on this machine, and the runner if it can."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cmexport.errors import CmexportError
from cmexport.targets.tensorrt.library import find_library, require_library
from cmexport.targets.tensorrt.runner import EngineRunner, check_engine, gpu_title


def engine_runner(path: Path, session: Mapping[str, Any]) -> EngineRunner:
    """An engine as its artefact describes it: where its weights are, which versions may load it.

    Raises:
        CheckpointError, BackendError: see `EngineRunner`; also the library it needs isn't installed.
    """
    facts = facts_of(path, session)
    weights = path.with_name(str(facts["onnx"])) if facts.get("stripped") and "onnx" in facts else None
    return EngineRunner(
        require_library(str(session.get("trt") or "auto")), path, weights, any_version=_any_version(facts)
    )


def why_not_run(path: Path, session: Mapping[str, Any]) -> str | None:
    """Why an engine can't be run here, in a few words; None if it can.

    A damaged engine can't be told from one that runs before it is loaded, and is not looked for here.
    """
    try:
        library = find_library(str(session.get("trt") or "auto"))
        if library is None:
            return "no TensorRT is installed"
        gpu = gpu_title()
        if gpu is None:
            return "no NVIDIA GPU here that PyTorch can use"
        check_engine(library, path, any_version=_any_version(facts_of(path, session)))
    except CmexportError as error:
        return str(error).removeprefix(f"{path}: ")
    return None


def facts_of(path: Path, session: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the manifest says of an engine; empty if it says nothing."""
    engines = session.get("engines", ())
    return next((e for e in engines if isinstance(e, Mapping) and e.get("file") == path.name), {})


def _any_version(facts: Mapping[str, Any]) -> bool:
    return "version" in facts.get("compatibility", ())
