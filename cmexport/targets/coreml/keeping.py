"""Which operations of a half-precision package stay in float32: those named, or those found by executing it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from cmexport.errors import UsageError
from cmexport.graph.capture import CapturedGraph
from cmexport.parity.inputs import draw_inputs
from cmexport.parity.keeping import AUTO, NAMED, Kept, why_kept
from cmexport.targets.base import TellStep
from cmexport.targets.coreml.blame import blame_half, plain_name

_ROUNDS = 3
"""How often a package is executed and converted again: an overflow hides those after it."""
_PICTURES = 4


@dataclass
class Selector:
    """Tells coremltools' half-precision pass which operations to convert, and notes those it asks about."""

    names: frozenset[str]
    seen: dict[str, None] = field(default_factory=dict)

    def __call__(self, operation: Any) -> bool:
        """Whether an operation is to become half precision."""
        if operation.op_type != "const":
            self.seen[operation.name] = None
        return operation.name not in self.names

    def check(self) -> None:
        """Refuse names that no operation has.

        Raises:
            UsageError: there is one.
        """
        for name in sorted(self.names - set(self.seen)):
            near = get_close_matches(name, self.seen, n=NAMED, cutoff=0.5)
            like = f"; similar: {', '.join(near)}" if near else ""
            raise UsageError(
                f"--keep-fp32 {name}: no operation has this name{like}\n"
                "cmexport verify ARTIFACT --blame lists the names of a package that was written in half precision"
            )


_STREAM = frozenset({"add", "sub", "mul", "real_div", "clip", "maximum", "minimum", "conv"})
_BEFORE = frozenset({"add", "mul", "reshape", "instance_norm", "silu", "relu"})


def in_stream(operation: Any, latents: tuple[int, ...]) -> bool:
    """Whether an operation makes latents (N, C, h, w), or is between the last block of a network and that.

    That is the last convolution with the norm and the sum before it, and what the sampler does to latents. At timestep
    999 x0 = (x - 0.998 eps) / 0.068: what rounds eps there is multiplied by 14.65.
    """
    if operation.op_type in _STREAM and tuple(operation.outputs[0].shape or ()) == latents:
        return True
    readers = [reader for output in operation.outputs for reader in output.child_ops]
    return operation.op_type in _BEFORE and bool(readers) and all(in_stream(r, latents) for r in readers)


Convert = Callable[[Selector | None], None]
"""Writes the package; without a selector everything becomes half precision."""


def convert_keeping(
    keep_fp32: tuple[str, ...], convert: Convert, captured: CapturedGraph, package: Path, progress: TellStep
) -> Kept:
    """Write a half-precision package that leaves in float32 what `keep_fp32` asks for.

    Args:
        keep_fp32: names of operations before the conversion to half precision, or `AUTO`, or nothing.
        convert: writes the package.
        captured: gives the inputs to try it on.
        package: where `convert` writes.
        progress: told about the stages.

    Raises:
        UsageError: no operation has a name that was given.
    """
    if keep_fp32 == AUTO:
        return _find(convert, captured, package, progress)
    if not keep_fp32:
        convert(None)
        return Kept()
    selector = Selector(frozenset(map(plain_name, keep_fp32)))
    convert(selector)
    selector.check()
    return Kept(tuple(name for name in selector.seen if name in selector.names), "named by --keep-fp32")


def _find(convert: Convert, captured: CapturedGraph, package: Path, progress: TellStep) -> Kept:
    """Convert, execute, keep what fails, until nothing does or nothing more can be kept; the ladder judges the end."""
    inputs = draw_inputs(captured.signature, _PICTURES)
    selector: Selector | None = None
    names: frozenset[str] = frozenset()
    reasons: list[str] = []
    for _ in range(_ROUNDS):
        convert(selector)
        progress("find what half precision breaks")
        found = blame_half(package, inputs)
        more = frozenset(() if found.healthy else found.worth_keeping) - names
        if not more:
            break
        reasons.append(why_kept(found.operations, found.difference))
        names |= more
        progress(f"keep {_count(len(names))} in float32")
        selector = Selector(names)
    else:
        convert(selector)
    if selector is None:
        return Kept()
    return Kept(tuple(name for name in selector.seen if name in names), "; then ".join(reasons))


def _count(operations: int) -> str:
    return f"{operations} operation" + ("s" if operations != 1 else "")
