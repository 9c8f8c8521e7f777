"""The TensorRT target, before it is imported."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, MinLen

from cmexport.errors import UsageError
from cmexport.targets.info import KEEP_FP32, PLAN, Library, LoweringOptions, Option, TargetInfo

if TYPE_CHECKING:
    from cmexport.quantize.precision_plan import PrecisionPlan

_Counts = Annotated[list[Annotated[int, Ge(1)]], MinLen(1)]


def parse_sm(typed: str) -> tuple[int, ...]:
    """Compute capabilities as typed, 86 or 8.6; in ascending order.

    Raises:
        UsageError: one is no number.
    """
    parts = [part.strip() for part in typed.split(",")]
    if wrong := [part for part in parts if not part.replace(".", "", 1).isdigit()]:
        raise UsageError(f"--sm {wrong[0]}: give compute capabilities with commas between: 86,120")
    return tuple(sorted({int(part.replace(".", "")) for part in parts}))


def parse_batches(typed: str) -> tuple[int, ...]:
    """What `--batch` says: one number, or several with commas between. The one to capture comes first.

    A graph captured for one picture is shaped for one (see `batches`), so that is the smallest above 1, if there are
    several.

    Raises:
        UsageError: something else, a number below 1, or one that comes twice.
    """
    try:
        batches = tuple(int(part) for part in typed.split(","))
    except ValueError:
        raise UsageError(f"--batch {typed}: give a number, or several with commas between: 1,4,8") from None
    if min(batches) < 1:
        raise UsageError(f"--batch {min(batches)}: must be at least 1")
    if twice := [b for b in batches if batches.count(b) > 1]:
        raise UsageError(f"--batch {typed}: {twice[0]} comes twice")
    lead = min((b for b in batches if b > 1), default=batches[0]) if len(batches) > 1 else batches[0]
    return (lead, *(b for b in batches if b != lead))


@dataclass(frozen=True)
class TensorRtOptions(LoweringOptions):
    """What can be asked of TensorRT.

    Attributes:
        plan: which layers compute in 8 bits, for "int8"; None: the default by their roles.
        trt: which TensorRT is wanted: "auto", "rtx", "10" or "11".
        sm: compute capabilities to build engines for (86 for 8.6); TensorRT for RTX only.
        compat: what else engines are to run with: "version", "hardware".
        strip: engines without weights.
        refit: engines whose weights can be replaced.
        timing_cache: file of measured kernel times, read and written by TensorRT.
        batches: a file and an engine for each; the captured graph has the first.
        keep_fp32: operations to leave in float32, by name; ("auto",) finds them.
    """

    plan: PrecisionPlan | None = None
    trt: str = "auto"
    sm: tuple[int, ...] = ()
    compat: tuple[str, ...] = ()
    strip: bool = False
    refit: bool = False
    timing_cache: Path | None = None
    batches: tuple[int, ...] = ()
    keep_fp32: tuple[str, ...] = ()


_HERE = "cmexport.targets.tensorrt"
_OPTIONS = (
    # On its own a plan says nothing of the precision here.
    replace(PLAN, implies=None),
    Option(
        "trt",
        "Which TensorRT builds: TensorRT for RTX, or TensorRT 10.12+ or 11. Without any: typed ONNX only.",
        *(str, "auto|rtx|10|11"),
        recipe=Literal["auto", "rtx", "10", "11"],
    ),
    Option(
        "sm",
        "TensorRT for RTX: compute capabilities to build for, 75,80,86,89,120. Default: all from 80.",
        *(str | None, "N,.."),
        recipe=_Counts,
        parse=parse_sm,
    ),
    Option(
        *("compat", "Engines for later versions, and for other GPUs (TensorRT 10, 11)."),
        *(str | None, "version,hardware"),
        recipe=list[Literal["version", "hardware"]],
        parse=lambda typed: tuple(part.strip() for part in typed.split(",")),
    ),
    Option("strip", "An engine without weights; they come from the ONNX at loading."),
    Option("refit", "An engine whose weights can be replaced."),
    Option("timing_cache", "Measured kernel times, read and written (TensorRT 10, 11).", Path | None, "FILE"),
    Option(
        "batches",
        "Pictures per run; several: an ONNX file and engine for each.",
        *(str, "N[,N..]", "batch"),
        recipe=_Counts,
        recipe_help="a file and an engine for each.",
        typed="1",
        parse=parse_batches,
    ),
    KEEP_FP32,
)

INFO = TargetInfo(
    name="tensorrt",
    title="TensorRT",
    summary="Export a checkpoint to TensorRT: typed ONNX, and engines, also on a machine without a GPU.",
    help="""Export a checkpoint to typed ONNX for TensorRT and, where one is installed, to an engine.

    Writes the folder OUT/<name>-tensorrt-<precision>/ with model.onnx, model.engine, model.layers.json, manifest.json
    and preview.png. The ONNX file is compared with PyTorch in ONNX Runtime, the engine too where the GPU in this
    machine can run it; what fails its parity gate is kept as *.rejected and the exit code is 4.
    """,
    suffix=".onnx",
    precisions=("fp32", "fp16", "bf16", "int8", "fp8"),
    loader=f"{_HERE}.target:TensorRtTarget",
    options=TensorRtOptions,
    spelled=_OPTIONS,
    libraries=(
        Library(
            *("TensorRT for RTX", "engines for RTX GPUs", ("tensorrt-rtx-cu13", "tensorrt-rtx-cu12", "tensorrt-rtx")),
            *("tensorrt", f"{_HERE}.library:probe_rtx"),
        ),
        # TensorRT proper has no extra: its wheels follow the GPU's driver, and Jetsons bring their own.
        Library(
            *("TensorRT", "engines for Jetson and data-centre GPUs", ("tensorrt",), None, f"{_HERE}.library:probe"),
            remedy="pip install tensorrt (on a Jetson: part of JetPack)",
        ),
    ),
    verified_by="ONNX Runtime; engines, the GPU of this machine",
    scope="Rungs named typed ONNX ran in ONNX Runtime; only a rung named TensorRT is an engine, run on this machine's "
    "GPU.",
)
