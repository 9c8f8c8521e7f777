"""Run a written ONNX file in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import onnx
import onnxruntime as ort

from cmexport.errors import BackendError, CheckpointError, first_line
from cmexport.runner import Array
from cmexport.threads import may_spin
from cmexport.threads import threads as pool_size

LEVELS = {
    "none": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}


LARGE_WEIGHTS_BYTES = 1_000_000_000


def has_large_weights(path: Path) -> bool:
    """Whether a model has a file of weights beside it of more than 1 GB.

    A CPU computes half precision in float32. Weights that several steps of a sampler read are widened in each run, and
    the block that ONNX Runtime plans for all results of a run holds them again: 3.6 GB for Stable Diffusion 1.5.
    """
    try:
        large = {f.name for f in path.parent.iterdir() if f.is_file() and f.stat().st_size > LARGE_WEIGHTS_BYTES}
        if not large - {path.name}:
            return False
        model = onnx.load(str(path), load_external_data=False)
    except Exception:  # damaged files are for the session to refuse
        return False
    named = {entry.value for t in model.graph.initializer for entry in t.external_data if entry.key == "location"}
    return bool(large & named)


class OnnxRuntimeRunner:
    """A session on one file.

    Raises:
        CheckpointError: the file is missing or is not a model ONNX Runtime can load.
        BackendError: a requested execution provider is not in this build of ONNX Runtime.
    """

    def __init__(
        self,
        path: Path,
        optimization: str = "all",
        providers: Sequence[str] = ("CPUExecutionProvider",),
        provider_options: Sequence[Mapping[str, str]] | None = None,
        threads: int = 0,
    ) -> None:
        available = ort.get_available_providers()
        if missing := [p for p in providers if p not in available]:
            raise BackendError(
                f"{missing[0]} is not in this ONNX Runtime ({', '.join(available)}); `cmexport doctor` names the "
                "package that brings it"
            )
        options = ort.SessionOptions()
        options.graph_optimization_level = LEVELS[optimization]
        options.intra_op_num_threads = threads or pool_size()
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if may_spin() else "0")
        options.log_severity_level = 3
        if optimization == "none":
            # The plain rung is run a few times and thrown away: packed copies of the weights would double its memory.
            options.add_session_config_entry("session.disable_prepacking", "1")
        if optimization == "none" or has_large_weights(path):
            options.enable_mem_pattern = False
        try:
            self._session: Any = ort.InferenceSession(
                str(path), options, providers=list(providers), provider_options=_plain(provider_options)
            )
        except Exception as error:  # onnxruntime raises a family of unrelated classes
            reason = first_line(error)
            raise CheckpointError(f"{path}: ONNX Runtime can't load this file: {reason}") from error
        self._outputs = [output.name for output in self._session.get_outputs()]

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run the file once on named arrays."""
        try:
            results = self._session.run(self._outputs, dict(inputs))
        except Exception as error:
            raise BackendError(f"ONNX Runtime failed while running: {first_line(error)}") from error
        return {name: np.asarray(result) for name, result in zip(self._outputs, results, strict=True)}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session = None


def _plain(options: Sequence[Mapping[str, str]] | None) -> list[dict[str, str]] | None:
    return None if options is None else [dict(o) for o in options]
