"""Lower a captured graph to one Core ML package."""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partialmethod
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from cmexport.errors import BackendError, UsageError, first_line
from cmexport.graph.capture import AMPLIFYING, CapturedGraph
from cmexport.graph.rewrites.fit_half import leaves_large
from cmexport.graph.rewriting import apply_rewrites
from cmexport.parity.keeping import AUTO
from cmexport.quantize.centred.insertion import to_int8
from cmexport.quantize.compression import RECIPES, compress
from cmexport.quantize.precision_plan import PrecisionPlan
from cmexport.signature import Output
from cmexport.targets.base import LoweredModel, TellStep
from cmexport.targets.coreml.centred import centred_decompositions
from cmexport.targets.coreml.compress import BITS, BITS_BEFORE_18
from cmexport.targets.coreml.compress import register as store_compressed_pass
from cmexport.targets.coreml.info import CoreMlOptions
from cmexport.targets.coreml.keeping import Selector, convert_keeping, in_stream
from cmexport.targets.coreml.library import coremltools
from cmexport.targets.coreml.package import describe, make_deterministic, package_files
from cmexport.targets.coreml.rewrites import chosen_rewrites
from cmexport.targets.coreml.rewrites.image_layout import REWRITE as IMAGE_LAYOUT

IOS_VERSIONS = (16, 17, 18)
"""Deployment targets; each also means the macOS released with it (13, 14, 15)."""


# Passes of coremltools that must not run:
_UNWANTED_PASSES = {
    # x a + b becomes batch_norm with variance 1 and the default epsilon: a factor of 1/sqrt(1.00001) for every norm,
    # 5e-6 each. The demo model's float32 pictures drop from 140 to 119 dB.
    "common::fuse_elementwise_to_batchnorm",
    # Labels are 0 to classes - 1: the lookup needs no compare, add and select for negative ones,
    "common::guard_negative_gather_indices",
    # and no casts to int16 and back for an index that is used once.
    "common::add_int16_cast",
}


def check_ios(ios: int) -> None:
    """Refuse a deployment target that is not known.

    Raises:
        UsageError: it is not 16, 17 or 18.
    """
    if ios not in IOS_VERSIONS:
        raise UsageError(f"--ios {ios}: known are {', '.join(map(str, IOS_VERSIONS))}")


def check_precision(precision: str, ios: int) -> None:
    """Refuse what a deployment target has no operations for.

    Raises:
        UsageError: 8-bit activations before iOS 17.
    """
    if precision == "int8" and ios < 17:
        raise UsageError(f"--int8 --ios {ios}: activations in 8 bits came with iOS 17; take --ios 17, or --w8")


def check_budget(options: CoreMlOptions) -> None:
    """`budget_db` is the whole precision "mixed".

    Raises:
        UsageError: one without the other, or a budget that half-precision arithmetic can't keep.
    """
    if options.precision == "mixed" and options.budget_db is None:
        raise UsageError("--precision mixed: say how good the pictures must stay with --budget-db, e.g. --budget-db 45")
    if options.budget_db is not None and not 20 <= options.budget_db <= 65:
        raise UsageError(f"--budget-db {options.budget_db:g}: must lie between 20 and 65; above, take --fp16")


def check_keeping(options: CoreMlOptions) -> None:
    """Refuse operations to keep in float32 where everything is.

    Raises:
        UsageError: there are some, for float32.
    """
    if options.keep_fp32 and options.precision == "fp32":
        raise UsageError("--keep-fp32: everything is float32 without another precision; add --fp16, say")


def lower(
    captured: CapturedGraph, options: CoreMlOptions, folder: Path, progress: TellStep, name: str = "model"
) -> LoweredModel:
    """Write `<name>.mlpackage` into `folder`.

    The target's own rewrites are applied first, unless the caller has applied them with the others.

    Raises:
        UsageError: unknown deployment target, rewrite or operation to keep in float32, or an image output for several
            pictures or odd channels.
        CheckpointError: for int8, the plan names unknown layers, or a layer's input or output is not finite.
        BackendError: coremltools is missing, or an operator has no Core ML form.
        OSError: the package can't be written.
    """
    check_ios(options.ios)
    check_precision(options.precision, options.ios)
    check_keeping(options)
    output = captured.signature.output
    if output.is_bytes:
        _check_image(output)
    ct = coremltools()
    done = {report.name for report in captured.rewrites}
    chosen = chosen_rewrites(options.ios, options.rewrites, half=options.precision != "fp32")
    wanted = [r for r in chosen if r.name not in done]
    if output.is_bytes:
        wanted.append(IMAGE_LAYOUT)
    shaped = apply_rewrites(captured, wanted, progress)
    plan: dict[str, Any] = {"default": "float32" if options.precision == "fp32" else "float16", "border": "float32"}
    if options.precision != "fp32" and _wide_latents(captured) is not None:
        plan["latents"] = "float32"
    if options.precision in RECIPES:
        widths = BITS if options.ios >= 18 else BITS_BEFORE_18
        compression = compress(shaped, options.precision, options.budget_db, progress, widths)
        shaped, plan = compression.captured, {**plan, **compression.facts()}
    if options.precision == "int8":
        shaped, facts = to_int8(shaped, options.plan or PrecisionPlan(), progress)
        plan |= facts
    package = folder / f"{name}.mlpackage"

    def convert(selector: Selector | None) -> None:
        progress("translate to Core ML")
        if package.exists():
            shutil.rmtree(package)
        _translate(ct, shaped, options, package, selector)

    # What no factor mends is found by executing the package, whether or not that was asked for: a picture of NaN is
    # never what is wanted.
    unmended = AUTO if leaves_large(shaped.rewrites) else ()
    plan |= convert_keeping(options.keep_fp32 or unmended, convert, shaped, package, progress).facts()
    progress("write")
    describe(package, captured.signature)
    make_deterministic(package)
    return LoweredModel(
        files=package_files(package),
        precision_plan=plan,
        session={"ios": options.ios, "half": options.precision != "fp32"},
        tools={name: version(name) for name in ("torch", "coremltools")},
        signature=captured.signature.without_int64(),
        rewrites=shaped.rewrites[len(captured.rewrites) :],
    )


def _check_image(output: Output) -> None:
    batch, _, _, channels = output.shape
    if batch != 1:
        raise UsageError(f"--batch {batch}: a Core ML image output holds one picture; use --output float for several")
    if channels not in (1, 3):
        raise UsageError(
            f"--output image: a Core ML image is grey or RGB, this model has {channels} channels; use --output float"
        )


def _translate(
    ct: Any, captured: CapturedGraph, options: CoreMlOptions, package: Path, selector: Selector | None
) -> None:
    """Convert and write. The package is written once, where it belongs: a temporary copy would be the weights again."""
    passes = ct.PassPipeline.DEFAULT
    passes.remove_passes(_UNWANTED_PASSES)
    if options.precision in RECIPES:
        passes.append_pass(store_compressed_pass())
    try:
        with quiet(), _fewer_checks():
            ct.convert(
                # Attention, norms and SiLU stay whole. coremltools refuses the training dialect.
                captured.program.run_decompositions(centred_decompositions()),
                convert_to="mlprogram",
                minimum_deployment_target=getattr(ct.target, f"iOS{options.ios}"),
                compute_precision=_compute_precision(ct, options, selector, _wide_latents(captured)),
                outputs=[_output_type(ct, captured.signature.output)],
                pass_pipeline=passes,
                skip_model_load=True,
                package_dir=str(package),
            )
    except OSError:
        raise
    except Exception as error:  # the converter raises a family of unrelated classes
        reason = first_line(error)
        raise BackendError(f"Core ML: this network can't be translated for iOS {options.ios}: {reason}") from error


def _compute_precision(
    ct: Any, options: CoreMlOptions, selector: Selector | None, latents: tuple[int, ...] | None
) -> Any:
    if options.precision == "fp32":
        return ct.precision.FLOAT32
    if selector is None and latents is None:
        return ct.precision.FLOAT16

    def halved(operation: Any) -> bool:
        asked = selector is None or selector(operation)
        return asked and not (latents is not None and in_stream(operation, latents))

    return ct.transform.FP16ComputePrecision(op_selector=halved)


def _wide_latents(captured: CapturedGraph) -> tuple[int, ...] | None:
    """The shape of the samples where the sampler multiplies the rounding of what makes them."""
    return captured.signature.sample.shape if captured.amplification > AMPLIFYING else None


def _output_type(ct: Any, output: Output) -> Any:
    if not output.is_bytes:
        return ct.TensorType(name=output.name, dtype=np.float32)
    layout = ct.colorlayout.RGB if output.shape[-1] == 3 else ct.colorlayout.GRAYSCALE
    return ct.ImageType(name=output.name, color_layout=layout)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the converter's progress bars, warnings and notices."""
    bars = import_module("tqdm").tqdm
    logger, shown = logging.getLogger("coremltools"), bars.__init__
    level = logger.level
    logger.setLevel(logging.ERROR)
    bars.__init__ = partialmethod(shown, disable=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        bars.__init__ = shown
        logger.setLevel(level)


@contextmanager
def _fewer_checks() -> Iterator[None]:
    """Check the program where coremltools checks it fully, not after each of 108 passes.

    Those checks find defects of a pass and change nothing; they took 4 of 10 profiled seconds for the demo.
    The full ones stay: after the translation, after every removal of dead code, and twice before the program is
    written.
    """
    program = import_module("coremltools.converters.mil.mil").Program
    check = program.validate

    def validate(self: Any, check_essential_scope: bool | None = False) -> None:
        if check_essential_scope:
            check(self, check_essential_scope=True)

    program.validate = validate
    try:
        yield
    finally:
        program.validate = check
