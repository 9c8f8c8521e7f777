"""What `inspect` says of a Core ML package, with or without our manifest beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from cmexport.cli import console
from cmexport.targets.coreml.executor import MilProgram, describe_placement, read_program
from cmexport.targets.coreml.executor.placement import Placement

# Operations named for each reason; the demo model's float32 package has 344 that one reason covers.
_NAMED = 3


def package_facts(package: Path) -> dict[str, Any]:
    """Return the facts about a Core ML package as plain data.

    Raises:
        CheckpointError: the package is damaged.
        BackendError: coremltools is missing.
    """
    program = read_program(package)
    return {
        "path": str(package),
        "specification_version": program.specification_version,
        "functions": {name: _plain(describe_placement(program, name)) for name in program.functions},
    }


def show_package(package: Path) -> None:
    """Show the facts about a Core ML package as tables; errors as `package_facts`."""
    program = read_program(package)
    console.say(f"{package}: ML Program, specification {program.specification_version}{_release(program)}")
    for name in program.functions:
        _show(name, describe_placement(program, name))
    console.say("Core ML itself decides on the device where an operation runs; this lists what is known to leave.")


def _release(program: MilProgram) -> str:
    """Specification 7 came with iOS 16, and so on."""
    version = program.specification_version
    return f" (iOS {version + 9})" if 6 <= version <= 9 else ""


def _plain(placement: Placement) -> dict[str, Any]:
    return {
        "operations": dict(placement.op_counts),
        "compression": dict(placement.compression),
        "highest_rank": placement.highest_rank,
        "precisions": list(placement.precisions),
        "weights": [{"dtype": w.dtype, "tensors": w.tensors, "bytes": w.nbytes} for w in placement.weights],
        "leaves_neural_engine": [
            {"reason": d.reason, "operations": list(d.operations), "source": d.source} for d in placement.departures
        ],
    }


def _show(name: str, placement: Placement) -> None:
    console.say(
        f"function {name}: {sum(placement.op_counts.values())} operations, computes in "
        f"{', '.join(placement.precisions) or 'whole numbers'}, at most {placement.highest_rank} dimensions"
    )
    counts = {**placement.op_counts, **placement.compression}
    console.say(Text("  " + ", ".join(f"{kind} {count}" for kind, count in counts.items())))
    for weights in placement.weights:
        console.say(f"  weights: {weights.tensors} tensors of {weights.dtype}, {weights.nbytes / 1e6:.2f} MB")
    if not placement.departures:
        console.say("  Nothing is known to leave the Neural Engine.")
        return
    table = Table("leaves the Neural Engine", "operations", "source")
    for departure in placement.departures:
        more = len(departure.operations) - _NAMED
        named = ", ".join(departure.operations[:_NAMED]) + (f" and {more} more" if more > 0 else "")
        table.add_row(Text(departure.reason), Text(named), Text(departure.source))
    console.say(table)
