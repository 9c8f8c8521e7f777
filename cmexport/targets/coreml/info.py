"""The Core ML target, before it is imported."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from cmexport.targets.info import KEEP_FP32, PACKAGING, PLAN, Decibel, Library, LoweringOptions, Option, TargetInfo

if TYPE_CHECKING:
    from cmexport.quantize.precision_plan import PrecisionPlan


@dataclass(frozen=True)
class CoreMlOptions(LoweringOptions):
    """What can be asked of Core ML.

    Attributes:
        plan: which layers compute in 8 bits, for "int8"; None: the default by their roles.
        budget_db: for "mixed", the PSNR that the smallest weights are to keep.
        ios: oldest iOS release that is to run it; 16, 17 or 18.
        keep_fp32: operations to leave in float32, by name; ("auto",) finds them.
        packaging: "one" graph, or "staged": parts as functions of one package.
    """

    plan: PrecisionPlan | None = None
    budget_db: float | None = None
    ios: int = 18
    keep_fp32: tuple[str, ...] = ()
    packaging: str = "one"


_HERE = "cmexport.targets.coreml"
_OPTIONS = (
    PLAN,
    Option(
        *("budget_db", "The fewest weight bits whose pictures keep this PSNR.", float | None, "DB"),
        recipe=Decibel,
        recipe_help="PSNR in dB to keep, for onnx int8 and coreml mixed.",
        precisions=("mixed",),
        implies="mixed",
    ),
    Option(
        *("ios", "Oldest iOS that is to run it: 16, 17 or 18 (macOS 13, 14, 15).", int, "N"), recipe=Literal[16, 17, 18]
    ),
    KEEP_FP32,
    PACKAGING,
)

INFO = TargetInfo(
    name="coreml",
    title="Core ML",
    summary="Export a checkpoint to Core ML, and execute the package to check it: no Mac needed.",
    help="""Export a checkpoint to Core ML; the saved package is executed and compared with PyTorch, on any machine.

    Writes the folder OUT/<name>-coreml-<precision>/ with model.mlpackage, manifest.json and preview.png. A package that
    fails its parity gate is kept as *.rejected and the exit code is 4. Several tasks (--task generate,inpaint) make one
    package with a function for each, sharing weights (iOS 18; below, one package each).
    """,
    suffix=".mlpackage",
    precisions=("fp32", "fp16", "int8", "w8", "w6", "w4", "mixed"),
    loader=f"{_HERE}.target:CoreMlTarget",
    options=CoreMlOptions,
    spelled=_OPTIONS,
    libraries=(Library("coremltools", "Core ML packages", ("coremltools",), "coreml", f"{_HERE}.library:probe"),),
    verified_by="an executor of the saved program; on a Mac, Core ML itself",
    scope="Graph, weights, layouts and quantization verified by executing the saved program; Apple's kernels were not "
    "run.",
    # Core ML runs on Macs and iPhones only.
    devices=(*(("local",) if platform.system() == "Darwin" else ()), "ssh", "folder"),
    runtime="coremltools",
    integers="int32",
    outputs=MappingProxyType({"float": "float", "uint8": "uint8", "image": "uint8"}),
    help_of=MappingProxyType({"output": "float: (N, C, H, W) in [-1, 1]; image: a picture, for --batch 1."}),
)
