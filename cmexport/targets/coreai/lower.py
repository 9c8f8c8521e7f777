"""Lower a captured graph to one Core AI asset."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from cmexport.errors import BackendError, first_line
from cmexport.graph.capture import CapturedGraph
from cmexport.targets.base import LoweredModel, Progress
from cmexport.targets.coreai.asset import asset_files, describe
from cmexport.targets.coreai.half import to_half
from cmexport.targets.coreai.library import converter, quiet
from cmexport.targets.info import LoweringOptions


def lower(
    captured: CapturedGraph, options: LoweringOptions, folder: Path, progress: Progress, name: str = "model"
) -> LoweredModel:
    """Write `<name>.aimodel`, a folder, into `folder`. Its label is int32: Core AI knows no 64-bit numbers.

    Raises:
        BackendError: Apple's packages are missing, or an operator has no Core AI form.
        OSError: the asset can't be written.
    """
    converter()
    half = options.precision == "fp16"
    if half:
        progress("half precision")
    progress("translate to Core AI")
    asset = folder / f"{name}.aimodel"
    _translate(to_half(captured) if half else captured, asset)
    progress("write")
    describe(asset, captured.signature)
    return LoweredModel(
        files=asset_files(asset),
        precision_plan={"default": "float16" if half else "float32", "border": "float32"},
        session={"half": half},
        tools={name: version(name) for name in ("torch", "coreai-torch", "coreai-core")},
        signature=captured.signature.without_int64(),
    )


def _translate(captured: CapturedGraph, asset: Path) -> None:
    torch_to_core = converter()
    try:
        with quiet():
            # Attention and SiLU stay whole in this table; GroupNorm becomes one composite operation later.
            program = captured.program.run_decompositions(torch_to_core.get_decomp_table())
            # RELEASE leaves out stack traces, which hold paths of this machine.
            made = torch_to_core.TorchConverter(mode=torch_to_core.TorchConverter.Mode.RELEASE)
            made.add_exported_program(program, output_names=[captured.signature.output.name])
            made.to_coreai().save_asset(asset)
    except OSError:
        raise
    except Exception as error:  # the converter raises a family of unrelated classes
        if isinstance(error.__cause__, OSError):
            raise error.__cause__ from None
        reason = first_line(error)
        raise BackendError(f"Core AI: this network can't be translated: {reason}") from error
