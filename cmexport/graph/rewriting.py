"""Apply rewrites in order, measuring after each what it removed and what error it made.

A rewrite is a function from an `Editor` to `Changes`; it knows no module names and no checkpoint format, only
operators and what depends on what. The error is measured, never assumed: the graph before and after is evaluated in
float64 on the same unit noise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, fx

from cmexport.errors import UsageError
from cmexport.graph.assembly import assemble
from cmexport.graph.capture import CapturedGraph, RewriteReport
from cmexport.graph.evaluate import unclamped_float32_picture, unclamped_picture
from cmexport.graph.fxtools import Editor, operation_count, weight_elements
from cmexport.graph.tracing import to_module
from cmexport.model import HUGE_MODEL, LARGE_MODEL

# Constants are stored in float32 (relative rounding 6e-8 each); 1e-6 on the picture is what all of them together may
# do.
MAX_RELATIVE_ERROR = 1e-6

# The same sums in another order: lcm-emoji's pictures, in whose sampler 14.65 times the answer is taken, differ by up
# to 3e-4, 2e-5 times that.
MAX_FLOAT32_ERROR = 1e-4


@dataclass(frozen=True)
class Changes:
    """How many places a rewrite changed, and a remark for the manifest."""

    applied: int
    note: str = ""


@dataclass(frozen=True)
class Rewrite:
    """A named graph transformation.

    Attributes:
        name: what `--rewrites` and the manifest call it.
        summary: one sentence for documentation and help.
        apply: edits the graph in place.
    """

    name: str
    summary: str
    apply: Callable[[Editor], Changes]


def select(available: Sequence[Rewrite], request: str) -> tuple[Rewrite, ...]:
    """Rewrites named by `--rewrites`: "all", "none" or a comma-separated list; always in their own order.

    Raises:
        UsageError: an unknown name.
    """
    if request == "all":
        return tuple(available)
    if request in ("none", ""):
        return ()
    names = {name.strip() for name in request.split(",")}
    known = {rewrite.name for rewrite in available}
    if unknown := sorted(names - known):
        raise UsageError(f"--rewrites: unknown rewrite '{unknown[0]}'; known: all, none, {', '.join(sorted(known))}")
    return tuple(rewrite for rewrite in available if rewrite.name in names)


def relative_error(before: Tensor, after: Tensor) -> float:
    """Largest absolute difference over the largest absolute value before."""
    scale = before.abs().max().clamp_min(torch.finfo(torch.float64).tiny)
    return float((before - after).abs().max() / scale)


def apply_rewrites(
    captured: CapturedGraph,
    rewrites: Sequence[Rewrite],
    progress: Callable[[str], None] = lambda _: None,
) -> CapturedGraph:
    """Rewrite the captured program and trace it again; the report of each rewrite is appended.

    Raises:
        RuntimeError: a rewrite changed the picture by more than `MAX_RELATIVE_ERROR` times the sampler's
            amplification (a defect, not bad input).
    """
    if not rewrites:
        return captured
    if captured.brief is None:
        weights = sum(weight.numel() for weight in captured.weights.values())
        # A picture of ImageNet-64's network takes 3 s in float64, and one after each of seven rewrites a third of the
        # whole export: from here on all rewrites are measured together.
        account_of = _Account.of if weights <= LARGE_MODEL else _Account.of_all_together
        module, reports = _rewrite(captured, rewrites, progress, account_of)
    else:
        # One by one on the brief sampler, all together on the whole one: 39 steps in float64 take 3 s a picture.
        huge = sum(weight.numel() for weight in captured.weights.values()) > HUGE_MODEL
        brief, whole = (
            (_Account.of_all_together, _Account.in_float32) if huge else (_Account.of, _Account.of_all_together)
        )
        measured = _rewrite(captured.brief, rewrites, lambda _: None, brief)[1]
        errors = {report.name: report.max_relative_error for report in measured}
        module, counted = _rewrite(captured, rewrites, progress, whole)
        reports = [
            replace(report, max_relative_error=errors[report.name], measured=_in_words(report) if huge else "")
            for report in counted
        ]
    return replace(captured, program=assemble(module, captured.examples()), rewrites=(*captured.rewrites, *reports))


def _in_words(report: RewriteReport) -> str:
    error = report.max_relative_error
    if error is None:
        return ""
    return f"all rewrites together, on the first evaluation; on the whole sampler in float32 {error:.0e}"


class _Account:
    """The pictures before and after each rewrite, or before the first and after the last."""

    def __init__(
        self, module: fx.GraphModule, captured: CapturedGraph, *, each: bool = False, exact: bool = True
    ) -> None:
        self._module, self._each = module, each
        self._picture = unclamped_picture if exact else unclamped_float32_picture
        # Folding rounds weights to float32: 3e-6 of the picture where 14.6 times the network's answer is taken.
        self._limit = (MAX_RELATIVE_ERROR if exact else MAX_FLOAT32_ERROR) * captured.amplification
        self._inputs = captured.examples(1)
        self._reference = self._picture(module, self._inputs)

    @classmethod
    def of(cls, module: fx.GraphModule, captured: CapturedGraph) -> Self:
        """Make the one that measures after each rewrite."""
        return cls(module, captured, each=True)

    @classmethod
    def of_all_together(cls, module: fx.GraphModule, captured: CapturedGraph) -> Self:
        """Make the one that measures once, after the last rewrite."""
        return cls(module, captured)

    @classmethod
    def in_float32(cls, module: fx.GraphModule, captured: CapturedGraph) -> Self:
        """Make the one that measures once, and in float32: for what takes minutes in float64."""
        return cls(module, captured, exact=False)

    def after(self, rewrite: str) -> float | None:
        """Return what a rewrite did to the picture; None where rewrites are not measured one by one.

        Raises:
            RuntimeError: more than `MAX_RELATIVE_ERROR`.
        """
        return self._error(f"rewrite {rewrite}") if self._each else None

    def after_all(self) -> float | None:
        """Return what all rewrites did together; None where they were measured one by one.

        Raises:
            RuntimeError: more than `MAX_RELATIVE_ERROR`.
        """
        return None if self._each else self._error("all rewrites together")

    def _error(self, what: str) -> float:
        rewritten = self._picture(self._module, self._inputs)
        error = relative_error(self._reference, rewritten)
        self._reference = rewritten
        # `not <=` so that NaN is caught as well.
        if not error <= self._limit:
            raise RuntimeError(f"{what} changed the picture by {error:.1e} relative")
        return error


def _rewrite(
    captured: CapturedGraph,
    rewrites: Sequence[Rewrite],
    progress: Callable[[str], None],
    account_of: Callable[[fx.GraphModule, CapturedGraph], _Account],
) -> tuple[fx.GraphModule, list[RewriteReport]]:
    module = to_module(captured.program)
    editor = Editor(module, captured.signature)
    account = account_of(module, captured)
    reports = []
    for rewrite in rewrites:
        progress(rewrite.name)
        weights, operations = weight_elements(module), operation_count(module)
        outcome = rewrite.apply(editor)
        editor.clean()
        reports.append(
            RewriteReport(
                name=rewrite.name,
                applied=outcome.applied,
                parameters_removed=weights - weight_elements(module),
                nodes_removed=operations - operation_count(module),
                max_relative_error=account.after(rewrite.name) if outcome.applied else None,
                note=outcome.note,
            )
        )
    together = account.after_all()
    if together is not None:
        reports = [replace(r, max_relative_error=together) if r.applied else r for r in reports]
    return module, reports
