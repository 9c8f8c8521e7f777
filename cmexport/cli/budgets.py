"""What the export verbs say of a search under a budget."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from cmexport.cli import console
from cmexport.errors import ParityError
from cmexport.exporting import ExportResult


def show_frontier(result: ExportResult, as_json: bool) -> None:
    """Show the plans that were measured, fastest first; nothing without a budget."""
    for function in result.manifest.function_names:
        plan: Mapping[str, Any] = result.manifest.function(function).numerics
        frontier = plan.get("frontier")
        if frontier is None or as_json:
            continue
        table = Table(title="Plans measured" if function == "generate" else f"Plans measured: {function}")
        for column in ("layers in float", "mean dB", "worst dB", "of float32's time", "MB"):
            table.add_column(column, justify="right")
        for point in frontier:
            count = point["in_float"]
            table.add_row(
                str(count) if count >= 0 else "0, all pairs",
                f"{point['db']:.1f}",
                f"{point['worst_db']:.1f}",
                f"{point['ratio']:.2f}",
                f"{point['megabytes']:.1f}",
            )
        console.say(table)


def check_latency(result: ExportResult) -> None:
    """Refuse a latency that no plan reaches: the fastest one was written.

    Raises:
        ParityError: naming the frontier's end.
    """
    for function in result.manifest.function_names:
        plan: Mapping[str, Any] = result.manifest.function(function).numerics
        if "budget_latency" in plan and not plan["budget_met"]:
            fastest = plan["frontier"][0]["ratio"]
            raise ParityError(
                f"{result.folder}: no plan takes {plan['budget_latency']:g} of float32's time here; the fastest, "
                f"{fastest:g}, was written"
            )
