"""What a target is to the rest of cmexport."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from cmexport.graph.capture import CapturedGraph, RewriteReport
from cmexport.graph.looping import CapturedLoop
from cmexport.graph.rewriting import Rewrite
from cmexport.parity.ladder import Rung
from cmexport.quantize.precision_plan import PrecisionPlan
from cmexport.signature import Signature

Progress = Callable[[str], None]


def files_inside(packed: Path, first: str) -> tuple[str, ...]:
    """Files of a model that is a folder, relative to the folder it lies in: `first`, then the others by name."""
    inner = sorted(p.relative_to(packed.parent).as_posix() for p in packed.rglob("*") if p.is_file())
    head = f"{packed.name}/{first}"
    return (head, *(path for path in inner if path != head))


@dataclass(frozen=True)
class LoweringOptions:
    """What the user asked of a target.

    Attributes:
        precision: "fp32", "fp16", ...; must be one of the target's.
        ep: execution provider (ONNX Runtime) whose preferred graph form is wanted.
        ios: oldest iOS release (Core ML) that is to run it; 16, 17 or 18.
        budget_db: for precision "mixed", the PSNR that the smallest weights are to keep; for ONNX's "int8", that the
            fewest layers in floating point are to keep.
        budget_latency: for ONNX's "int8", the latency to stay within, over that of the float32 file.
        keep_fp32: operations to leave in float32 where the target can: names, or "auto" to find them.
        rewrites: "all", "none" or names, for the rewrites that only this target applies.
        plan: which layers compute in 8 bits, for precision "int8"; None: the default by their roles.
        trt: which TensorRT is wanted: "auto", "rtx", "10" or "11".
        sms: compute capabilities to build engines for (86 for 8.6); TensorRT for RTX only.
        compat: what else engines are to run with: "version", "hardware".
        refit: engines whose weights can be replaced.
        strip: engines without weights.
        timing_cache: file of measured kernel times, read and written by TensorRT.
        simplify: let onnxsim rewrite the finished file (ONNX only).
        batches: for targets that write a file for each batch, all of them; the captured graph has the first.
    """

    precision: str = "fp32"
    ep: str = "cpu"
    ios: int = 18
    budget_db: float | None = None
    budget_latency: float | None = None
    keep_fp32: tuple[str, ...] = ()
    rewrites: str = "all"
    plan: PrecisionPlan | None = None
    trt: str = "auto"
    sms: tuple[int, ...] = ()
    compat: tuple[str, ...] = ()
    refit: bool = False
    strip: bool = False
    timing_cache: Path | None = None
    simplify: bool = False
    batches: tuple[int, ...] = ()


@dataclass(frozen=True)
class LoweredModel:
    """What lowering wrote and decided.

    Attributes:
        files: model files relative to the folder, the one to open first.
        precision_plan: which types are used where; plain data for the manifest.
        session: execution provider and session options the file was shaped for.
        tools: versions of the libraries that made it.
        rewrites: account of the rewrites that only this target applies.
        signature: the border of the written file, in its own dtypes.
        simplification: what onnxsim did to the file, as plain data; None where it was not asked.
    """

    files: tuple[str, ...]
    precision_plan: Mapping[str, Any]
    session: Mapping[str, Any]
    tools: Mapping[str, str]
    signature: Signature
    rewrites: tuple[RewriteReport, ...] = field(default=())
    simplification: Mapping[str, Any] | None = None


class Target(Protocol):
    """A format with its runtime."""

    @property
    def name(self) -> str:
        """What the command line and the artefact call it."""
        ...

    @property
    def precisions(self) -> tuple[str, ...]:
        """Precisions it can lower to."""
        ...

    @property
    def own_rewrites(self) -> tuple[Rewrite, ...]:
        """Rewrites that only this target applies, by the names `--rewrites` takes."""
        ...

    def rewrites_for(self, options: LoweringOptions) -> tuple[Rewrite, ...]:
        """Those of its own rewrites that `options` ask for; applied with the general ones, they cost one trace less.

        Raises:
            UsageError: an option this target does not know.
        """
        ...

    def lower(
        self, captured: CapturedGraph, options: LoweringOptions, folder: Path, progress: Progress, name: str = "model"
    ) -> LoweredModel:
        """Write the model into an existing folder, as `name` and the format's suffix.

        Raises:
            UsageError: an option this target does not know.
            BackendError: a library is missing or refuses the graph.
        """
        ...

    def join(self, folder: Path, lowered: Mapping[str, LoweredModel]) -> Mapping[str, LoweredModel]:
        """Several graphs of one model, by name: make them one file where the format can hold several.

        Raises:
            BackendError: a library refuses.
        """
        ...

    def stamp(self, folder: Path, files: tuple[str, ...], facts: Mapping[str, str]) -> None:
        """Write the manifest's facts into the model file itself, so that a lone file explains itself."""
        ...

    def rungs(self, folder: Path, files: tuple[str, ...], session: Mapping[str, Any]) -> tuple[Rung, ...]:
        """The parity ladder's steps for a written model, from the least to the most optimized; the last one ships."""
        ...


@runtime_checkable
class LoopingTarget(Protocol):
    """A target that can write a sampler as a loop; without it there are only unrolled ones."""

    @property
    def loop_precisions(self) -> tuple[str, ...]:
        """Precisions it can lower a loop to."""
        ...

    def lower_loop(
        self, loop: CapturedLoop, options: LoweringOptions, folder: Path, progress: Progress, name: str = "model"
    ) -> LoweredModel:
        """As `Target.lower`, for a sampler that evaluates one copy of the network many times.

        Raises:
            UsageError: an option this target does not know.
            BackendError: a library is missing or refuses the graph.
        """
        ...
