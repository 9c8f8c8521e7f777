"""Half precision of a saved package, operation by operation: the executor against itself in float32."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from cmexport.parity.blame import BlameCollector, OperationBlame, OperationPair, first_over_budget, keep_list
from cmexport.parity.gates import byte_gate
from cmexport.parity.metrics import PictureDifference, compare
from cmexport.runner import Array
from cmexport.targets.coreml.executor import Executor, MilProgram, read_program
from cmexport.targets.coreml.executor.modes import WIDE, Mode
from cmexport.targets.coreml.executor.program import MilFunction, MilOp, Reference
from cmexport.targets.coreml.runner import as_image, as_taken

# What half-precision sums and flushed subnormals may cost, emulated or on a unit that has them. Apple's own advice is
# to expect 50 dB of half precision on a device and to look closer below 40.
HALF_GATE_DB = 45.0

# Rounding to 8 bits turns the smallest difference into a whole level now and then, whatever it is computed in: the demo
# model's pictures with 8-bit activations are 49.6 dB from those of the same program in float32, without them 74.4 dB.
_EIGHT_BIT_GATE_DB = 38.0

# Above the gate by what an estimate from a few pictures is off.
_MARGIN_DB = 3.0

OPERATION_BUDGET_DB = 40.0
"""Signal to noise, 1 % of the magnitude, below which an operation's result is worth a look."""

_SUFFIX = "_cast_fp16"

# The conversion makes casts, and other ones when an operation is kept; 8-bit rounding is no better in float32.
_NOT_KEPT = ("cast", "quantize", "dequantize")


@dataclass(frozen=True)
class HalfBlame:
    """What half precision does to a function.

    Attributes:
        mode: how half precision was computed: "fp16" or "ftz".
        pictures: how many pictures were drawn.
        difference: pictures in that mode against pictures of the same program in float32.
        operations: a report for each operation, in program order; named as before the conversion to half precision.
        gate_db: what `difference` should reach.
    """

    mode: Mode
    pictures: int
    difference: PictureDifference
    operations: tuple[OperationBlame, ...]
    gate_db: float

    @property
    def healthy(self) -> bool:
        """Whether nothing overflows and the pictures keep the gate for half precision."""
        return not any(r.overflows_itself for r in self.operations) and self.difference.passes(self.gate_db)

    @property
    def first_over_budget(self) -> OperationBlame | None:
        """The first operation that is out; see `parity.blame.first_over_budget`."""
        return first_over_budget(self.operations, OPERATION_BUDGET_DB)

    @property
    def worth_keeping(self) -> tuple[str, ...]:
        """Operations to compute in float32, so that nothing overflows and the pictures keep the gate.

        See `parity.blame.keep_list`.
        """
        found = self.difference.mean_db
        if not self.operations or self.difference.passes(self.gate_db) or found is None:
            return keep_list(self.operations, -np.inf)
        # The picture must gain this much, and so must the last result.
        return keep_list(self.operations, self.operations[-1].snr_db + self.gate_db + _MARGIN_DB - found)


def plain_name(name: str) -> str:
    """An operation's name before the conversion to half precision, which adds a suffix."""
    return name.removesuffix(_SUFFIX)


def blame_half(
    package: Path,
    inputs: Sequence[Mapping[str, Array]],
    function: str | None = None,
    mode: Mode = "fp16",
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> HalfBlame:
    """Run a package in float32 and in `mode` side by side on each of `inputs`; neither run's results are kept.

    Args:
        package: a saved `.mlpackage`.
        inputs: arrays by name, a dict for each run, as the artefact takes them.
        function: None is the package's default.
        mode: "fp16" or "ftz".
        progress: told runs done and in total.

    Raises:
        CheckpointError: the package is damaged, or holds operations that the executor doesn't know.
        UsageError: no such function, or inputs that don't fit.
    """
    program = read_program(package)
    wide, half = Executor(program, function, WIDE), Executor(program, function, mode)
    reader = _Reader(half.function)
    collector = BlameCollector()
    pictures = []
    for index, arrays in enumerate(inputs):
        taken = as_taken(arrays)
        for (op, reference), (_, candidate) in zip(wide.steps(taken), half.steps(taken), strict=True):
            collector.add(reader.pair(op, reference, candidate))
        pictures.append(reader.pictures(program))
        progress(index + 1, len(inputs))
    reference_pictures, candidate_pictures = (np.concatenate(side) for side in zip(*pictures, strict=True))
    eight_bits = any(op.type == "quantize" for op in half.function.ops)
    gate = _EIGHT_BIT_GATE_DB if eight_bits else HALF_GATE_DB
    if candidate_pictures.dtype == np.uint8:
        gate = byte_gate(gate)
    difference = compare(reference_pictures, candidate_pictures)
    return HalfBlame(mode, len(candidate_pictures), difference, collector.reports(), gate)


class _Reader:
    """Turns steps of two executors into pairs, and remembers the function's results."""

    def __init__(self, function: MilFunction) -> None:
        self._function = function
        operations = [op for op in function.ops if not op.is_constant]
        self._locations = {op.name: index for index, op in enumerate(operations)}
        self._producers = {o.name: plain_name(op.name) for op in operations for o in op.outputs}
        self._results: dict[str, tuple[Array, Array]] = {}

    def pair(self, op: MilOp, reference: tuple[Tensor, ...], candidate: tuple[Tensor, ...]) -> OperationPair:
        left, right = tuple(map(_array, reference)), tuple(map(_array, candidate))
        for output, *both in zip(op.outputs, left, right, strict=True):
            if output.name in self._function.outputs:
                self._results[output.name] = both[0].copy(), both[1].copy()
        return OperationPair(
            name=plain_name(op.name),
            type=op.type,
            location=self._locations[op.name],
            operands=tuple(dict.fromkeys(self._operands(op))),
            half=(half := any(o.type.dtype == "float16" for o in op.outputs)),
            keepable=half and op.type not in _NOT_KEPT,
            reference=left,
            candidate=right,
        )

    def _operands(self, op: MilOp) -> Iterator[str]:
        for bindings in op.inputs.values():
            for binding in bindings:
                if isinstance(binding, Reference) and binding.name in self._producers:
                    yield self._producers[binding.name]

    def pictures(self, program: MilProgram) -> tuple[Array, Array]:
        """The finished pictures of the last run of both."""
        name = self._function.outputs[0]
        reference, candidate = self._results[name]
        return (as_image(reference), as_image(candidate)) if name in program.image_outputs else (reference, candidate)


def _array(x: Tensor) -> Array:
    array: Array = x.float().numpy() if x.is_floating_point() else x.numpy()
    return array
