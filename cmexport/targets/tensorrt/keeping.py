"""Which operators of a typed ONNX file stay in float32: those named, or those that half precision breaks.

The file in float32 and the file in half precision run side by side in ONNX Runtime, on inputs from the exact law that
the graph will be fed, and every operator's results are compared. Half precision is emulated, see `emulation`: sums in
float32, results rounded, as TensorRT's kernels do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx_ir as ir

from cmexport.errors import UsageError
from cmexport.graph.capture import CapturedGraph
from cmexport.onnxfile.emulation import LEAST_EXTERNAL_BYTES, NARROW, widen
from cmexport.onnxfile.runner import OnnxRuntimeRunner
from cmexport.parity.blame import BlameCollector, OperationBlame, OperationPair, keep_list
from cmexport.parity.gates import byte_gate, gate_for
from cmexport.parity.inputs import draw_inputs
from cmexport.parity.keeping import NAMED, Kept, why_kept
from cmexport.parity.metrics import PictureDifference, compare
from cmexport.runner import Array
from cmexport.targets.base import TellStep

_ROUNDS = 3
"""How often a file is looked at: an overflow hides those after it."""
_PICTURES = 4

# Above the gate by what an estimate from four pictures is off.
_MARGIN_DB = 3.0

# Casts come and go with what is kept; codes of 8 bits are no better in float32.
_NOT_KEPT = frozenset({"Cast", "QuantizeLinear", "DequantizeLinear"})

MakeHalf = Callable[[frozenset[str]], ir.Model]
"""The half-precision model that leaves the named operators in float32."""


@dataclass(frozen=True)
class HalfLook:
    """Half precision against float32: a report for each operator, and the pictures."""

    operations: tuple[OperationBlame, ...]
    difference: PictureDifference
    gate_db: float

    @property
    def healthy(self) -> bool:
        """Whether nothing overflows and the pictures keep the gate."""
        return not any(r.overflows_itself for r in self.operations) and self.difference.passes(self.gate_db)

    @property
    def worth_keeping(self) -> tuple[str, ...]:
        """The operations to leave in float32; see `parity.blame.keep_list`."""
        found = self.difference.mean_db
        if not self.operations or self.difference.passes(self.gate_db) or found is None:
            return keep_list(self.operations, -np.inf)
        return keep_list(self.operations, self.operations[-1].snr_db + self.gate_db + _MARGIN_DB - found)


def check_names(model: ir.Model, names: Sequence[str]) -> None:
    """Refuse names that no operator's first output has.

    Raises:
        UsageError: there is one.
    """
    known = [str(node.outputs[0].name) for node in model.graph]
    for name in sorted(set(names) - set(known)):
        near = get_close_matches(name, known, n=NAMED, cutoff=0.5)
        like = f"; similar: {', '.join(near)}" if near else ""
        raise UsageError(
            f"--keep-fp32 {name}: no operator of the ONNX file has a result of this name{like}\n"
            "--keep-fp32 auto finds what half precision breaks"
        )


def find_kept(wide: ir.Model, make_half: MakeHalf, captured: CapturedGraph, precision: str, progress: TellStep) -> Kept:
    """Look for what half precision breaks, keep it in float32, and look again.

    Args:
        wide: the model in float32, Q/DQ pairs included.
        make_half: lowers a copy of it.
        captured: gives the inputs to try it on.
        precision: whose gate the pictures are to keep.
        progress: told about the stages.
    """
    inputs = draw_inputs(captured.signature, _PICTURES, seed=30_000)
    gate = gate_for(precision)
    if captured.signature.output.is_bytes:
        gate = byte_gate(gate)
    names: frozenset[str] = frozenset()
    reasons: list[str] = []
    for _ in range(_ROUNDS):
        progress("find what half precision breaks")
        found = look(wide, make_half(names), list(inputs), gate)
        more = frozenset(() if found.healthy else found.worth_keeping) - names
        if not more:
            break
        reasons.append(why_kept(found.operations, found.difference))
        names |= more
        progress(f"keep {len(names)} operator{'s' if len(names) != 1 else ''} in float32")
    order = [str(node.outputs[0].name) for node in wide.graph]
    return Kept(tuple(n for n in order if n in names), "; then ".join(reasons))


def look(wide: ir.Model, half: ir.Model, inputs: Sequence[Mapping[str, Array]], gate_db: float) -> HalfLook:
    """Run both models on each of `inputs`, and compare results of operators that both have; `half` is used up."""
    halves = {str(n.outputs[0].name): n.outputs[0].dtype in NARROW for n in half.graph}
    compared = [n for n in wide.graph if n.outputs[0].name in halves and n.outputs[0].dtype is not None]
    names = [str(n.outputs[0].name) for n in compared]
    picture = str(wide.graph.outputs[0].name)
    collector = BlameCollector()
    pictures: list[tuple[Array, Array]] = []
    with TemporaryDirectory(prefix="cmexport-keep-", ignore_cleanup_errors=True) as folder:
        widen(half)
        files = [_exposed(model, names, Path(folder) / f"{i}.onnx") for i, model in enumerate((wide.clone(), half))]
        for arrays in inputs:
            # One after the other: two sessions would hold the weights twice.
            reference, candidate = (_results(file, arrays) for file in files)
            for location, (node, name) in enumerate(zip(compared, names, strict=True)):
                collector.add(
                    OperationPair(
                        name=name,
                        type=node.op_type,
                        location=location,
                        operands=tuple(dict.fromkeys(_operands(node, set(names)))),
                        half=halves[name],
                        keepable=halves[name] and node.op_type not in _NOT_KEPT,
                        reference=(reference[name],),
                        candidate=(candidate[name].astype(reference[name].dtype),),
                    )
                )
            pictures.append((reference[picture], candidate[picture]))
    both = [np.concatenate(side) for side in zip(*pictures, strict=True)]
    return HalfLook(collector.reports(), compare(both[0], both[1]), gate_db)


def _operands(node: ir.Node, known: set[str]) -> Iterator[str]:
    for value in node.inputs:
        producer = value.producer() if value is not None else None
        if producer is not None and producer.outputs[0].name in known:
            yield str(producer.outputs[0].name)


def _exposed(model: ir.Model, names: Sequence[str], path: Path) -> Path:
    """Write a model whose outputs are all the named results, the picture first."""
    wanted = set(names) - {str(v.name) for v in model.graph.outputs}
    for node in model.graph:
        if node.outputs[0].name in wanted:
            model.graph.outputs.append(node.outputs[0])
    ir.save(model, path, external_data=f"{path.name}.data", size_threshold_bytes=LEAST_EXTERNAL_BYTES)
    return path


def _results(path: Path, arrays: Mapping[str, Array]) -> dict[str, Array]:
    with OnnxRuntimeRunner(path, "none") as run:
        return run(arrays)
