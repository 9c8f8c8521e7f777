"""The ONNX target, before it is imported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cmexport.targets.info import PACKAGING, PLAN, Decibel, LoweringOptions, Option, TargetInfo

if TYPE_CHECKING:
    from cmexport.quantize.precision_plan import PrecisionPlan


@dataclass(frozen=True)
class OnnxOptions(LoweringOptions):
    """What can be asked of ONNX.

    Attributes:
        plan: which layers compute in 8 bits, for "int8"; None: the default by their roles.
        budget_db: for "int8", the PSNR that the fewest layers in floating point are to keep.
        budget_latency: for "int8", the latency to stay within, over that of the float32 file.
        ep: execution provider of ONNX Runtime whose preferred graph form is wanted.
        simplify: let onnxsim rewrite the finished file.
        packaging: "one" graph, or "staged": parts over one file of weights.
    """

    plan: PrecisionPlan | None = None
    budget_db: float | None = None
    budget_latency: float | None = None
    ep: str = "cpu"
    simplify: bool = False
    packaging: str = "one"


_INT8: Any = {"recipe": Decibel, "precisions": ("int8",), "implies": "int8"}
_OPTIONS = (
    PLAN,
    Option("budget_db", "int8: the fewest layers in float whose pictures keep this PSNR.", float | None, "DB", **_INT8),
    Option(
        *("budget_latency", "int8: the best pictures within R of the float32 file's time, measured."),
        *(float | None, "R"),
        **_INT8,
    ),
    Option(
        "ep",
        "Execution provider to shape the graph for: cpu, cuda, arm, web, openvino, xnnpack, qnn, coreml, nnapi. All "
        "but cpu and cuda get plain ONNX operators.",
        *(str, "NAME"),
    ),
    Option("simplify", "Let onnxsim rewrite the finished file, before it is verified."),
    PACKAGING,
)

INFO = TargetInfo(
    name="onnx",
    title="ONNX",
    summary="Export a checkpoint to ONNX: noise in, picture out, checked against PyTorch.",
    help="""Export a checkpoint to ONNX: noise in, picture out, checked against PyTorch.

    Writes the folder OUT/<name>-onnx-<precision>/ with model.onnx, manifest.json and preview.png. A file that fails its
    parity gate is kept as *.rejected and the exit code is 4. Several tasks (--task generate,inpaint) make a file
    each.
    """,
    suffix=".onnx",
    precisions=("fp32", "fp16", "int8", "a16w8", "w8", "w4"),
    loader="cmexport.targets.onnx.target:OnnxTarget",
    options=OnnxOptions,
    spelled=_OPTIONS,
    verified_by="ONNX Runtime",
    devices=("local", "ssh", "adb", "browser", "folder"),
    runtime="onnxruntime",
    loop_precisions=("fp32", "fp16"),
)
