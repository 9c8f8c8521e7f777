"""The TensorRT target as the rest of cmexport sees it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import onnxruntime as ort

from cmexport.graph.rewrites import HALF_REWRITES, REWRITES
from cmexport.graph.rewriting import Rewrite, select
from cmexport.onnxfile import saving
from cmexport.onnxfile.emulation import EmulatedHalfRunner
from cmexport.onnxfile.runner import OnnxRuntimeRunner
from cmexport.parity.ladder import Rung
from cmexport.targets.base import Target
from cmexport.targets.tensorrt import lower as lowering
from cmexport.targets.tensorrt.batches import batch_of_name
from cmexport.targets.tensorrt.checking import engine_runner, facts_of, why_not_run
from cmexport.targets.tensorrt.info import TensorRtOptions
from cmexport.targets.tensorrt.stacking import StackedRunner

_CUDA = "CUDAExecutionProvider"


class TensorRtTarget(Target):
    """Typed ONNX and an engine for each graph and batch; ONNX Runtime verifies the ONNX, a GPU the engine."""

    own_rewrites = HALF_REWRITES
    lower_one = staticmethod(lowering.lower)

    def rewrites_for(self, options: TensorRtOptions) -> tuple[Rewrite, ...]:
        """Those for half precision; a wrong option or a missing library is told here, before anything is captured."""
        lowering.check(options)
        half = lowering.has_halfs_range(options.precision)
        named = select((*REWRITES, *HALF_REWRITES), options.rewrites)
        return tuple(form for form in HALF_REWRITES if half and form in named)

    def stamp(self, folder: Path, files: tuple[str, ...], facts: Mapping[str, str]) -> None:
        """Into every ONNX file; see `saving.stamp`. An engine has no place for them."""
        for path in files:
            if path.endswith(".onnx"):
                saving.stamp(folder, (path,), dict(facts))

    def remarks(self, folder: Path, files: tuple[str, ...], session: Mapping[str, Any]) -> Iterator[str]:
        """For which GPUs the engines are, layers by precision, what fell back, whether they ran; or why none is."""
        engines = [path for path in files if path.endswith(".engine")]
        if not engines:
            yield f"No engine: {session.get('library')}."
        for path in engines:
            yield _engine_line(folder / path, session)

    def rungs(self, folder: Path, files: tuple[str, ...], session: Mapping[str, Any]) -> tuple[Rung, ...]:
        """The typed ONNX in ONNX Runtime, for every batch, on the CPU and with CUDA; then the engines that run here.

        What the CPU doesn't compute in 16 bits is emulated, see `emulation`; bfloat16 runs there in no other way.
        """
        models = [path for path in files if path.endswith(".onnx")]
        engines = [path for path in files if path.endswith(".engine")]
        rungs = []
        for path in models:
            rungs += [_for_batch(rung, path) for rung in _onnx_rungs(folder / path, session)]
        for path in engines:
            if why_not_run(folder / path, session) is None:
                opened = partial(engine_runner, folder / path, session)
                rungs.append(_for_batch(Rung(f"TensorRT, {path}", opened), path))
        return tuple(rungs)


def _onnx_rungs(path: Path, session: Mapping[str, Any]) -> list[Rung]:
    half = str(session.get("half") or "")
    first = (
        Rung(f"typed ONNX, {half} emulated{_suffix(path)}", partial(EmulatedHalfRunner, path))
        if half
        else Rung(f"typed ONNX, no optimization{_suffix(path)}", partial(OnnxRuntimeRunner, path, "none"))
    )
    if half == "bfloat16":
        return [first]
    rungs = [first, Rung(f"typed ONNX, ONNX Runtime CPU{_suffix(path)}", partial(OnnxRuntimeRunner, path, "all"))]
    if _CUDA in ort.get_available_providers():
        opened = partial(OnnxRuntimeRunner, path, "all", (_CUDA, "CPUExecutionProvider"))
        rungs.append(Rung(f"typed ONNX, ONNX Runtime CUDA{_suffix(path)}", opened))
    return rungs


def _suffix(path: Path) -> str:
    batch = batch_of_name(path.stem)
    return "" if batch is None else f", batch {batch}"


def _for_batch(rung: Rung, path: str) -> Rung:
    """A rung that takes the pictures as they come, whatever the batch of its file."""
    batch = batch_of_name(Path(path).stem)
    return rung if batch is None else Rung(rung.name, partial(StackedRunner, rung.open, batch), rung.gate_db)


def _engine_line(engine: Path, session: Mapping[str, Any]) -> str:
    facts, why = facts_of(engine, session), why_not_run(engine, session)
    where = ", ".join(facts.get("compute_capabilities", ())) or facts.get("built_for", "")
    counts = ", ".join(f"{n} {p}" for p, n in facts.get("layers_by_precision", {}).items())
    fell = facts.get("float32_fallbacks") or ()
    back = f"; {len(fell)} fell back to float32: {fell[0]}" if fell else ""
    ran = "run on this machine's GPU" if why is None else f"built, not run here: {why}"
    return f"{engine.name}: {facts.get('library')}, for {where}; layers: {counts or 'not known'}{back}. Engine {ran}."
