"""What a saved program consists of, and what in it is likely to leave the Neural Engine.

Core ML decides placement itself, on the device, and documents little of how. Every reason below has a public source and
errs on the side of naming too much; a Mac's compute plan is the final word.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from cmexport.errors import UsageError
from cmexport.targets.coreml.executor.blobs import packed_bytes
from cmexport.targets.coreml.executor.program import (
    Binding,
    Constant,
    Immediate,
    MilFunction,
    MilOp,
    MilProgram,
    Reference,
    Stored,
)

HIGHEST_RANK = 5
"""Ranks above are refused by the Neural Engine (apple/coreai-models, rules for re-authoring models)."""

_INDEXED = frozenset({"gather", "gather_along_axis", "gather_nd", "scatter", "scatter_along_axis", "scatter_nd"})
_DATA_DEPENDENT = frozenset({"non_zero", "range_1d", "argsort", "topk", "one_hot"})
_WHOLE_NUMBERS = frozenset({"int32", "int64", "uint32", "uint64"})
_MOVES_NOTHING = frozenset({"cast", "shape"})


@dataclass(frozen=True)
class WeightStorage:
    """Weights of one stored type.

    Attributes:
        dtype: type of their elements in the file: "float16", "uint4", …
        tensors: how many tensors.
        nbytes: bytes in the package; tensors shared by several functions count once.
    """

    dtype: str
    tensors: int
    nbytes: int


@dataclass(frozen=True)
class Departure:
    """A reason for operations to run elsewhere.

    Attributes:
        reason: one sentence.
        operations: names of the operations concerned.
        source: where the reason is documented.
    """

    reason: str
    operations: tuple[str, ...]
    source: str


@dataclass(frozen=True)
class Placement:
    """Facts about one function of a program.

    Attributes:
        op_counts: how often each operation type occurs, without constants; most frequent first.
        compression: how often each kind of `constexpr_*` occurs.
        highest_rank: of any value that isn't constant.
        precisions: float types that operations compute in, e.g. ("float16",).
        weights: what the package stores, largest first.
        departures: what is likely to leave the Neural Engine; empty is good.
    """

    op_counts: Mapping[str, int]
    compression: Mapping[str, int]
    highest_rank: int
    precisions: tuple[str, ...]
    weights: tuple[WeightStorage, ...]
    departures: tuple[Departure, ...]


def describe_placement(program: MilProgram, function: str | None = None) -> Placement:
    """The facts that `cmexport inspect` shows about a package.

    Args:
        program: as read by `read_program`.
        function: its name; None is the program's default.

    Raises:
        UsageError: there is no such function.
    """
    name = program.default_function if function is None else function
    if name not in program.functions:
        raise UsageError(f"{program.path}: there is no function '{name}', only {', '.join(program.functions)}")
    chosen = program.functions[name]
    running = [op for op in chosen.ops if not op.is_constant]
    outputs = [o.type for op in running for o in op.outputs]
    return Placement(
        op_counts=dict(Counter(op.type for op in running).most_common()),
        compression=dict(Counter(op.type for op in chosen.ops if op.type.startswith("constexpr_")).most_common()),
        highest_rank=max((len(t.shape) for t in [*outputs, *(i.type for i in chosen.inputs)]), default=0),
        precisions=tuple(sorted({t.dtype for t in outputs if "float" in t.dtype and t.dtype in _computed(running)})),
        weights=_weights(program),
        departures=tuple(_departures(running, _written(chosen))),
    )


def _computed(ops: list[MilOp]) -> set[str]:
    """Types that something besides a cast produces: casts at the border don't make a program float32."""
    return {o.type.dtype for op in ops if op.type not in _MOVES_NOTHING for o in op.outputs}


def _written(function: MilFunction) -> dict[str, Constant]:
    """Constants of the program by name."""
    written = (op for op in function.ops if op.type == "const" and "val" in op.attributes)
    return {op.outputs[0].name: op.attributes["val"] for op in written if op.outputs}


def _weights(program: MilProgram) -> tuple[WeightStorage, ...]:
    """Tensors in weights files and those of at least ten numbers in the program: small ones are parameters."""
    stored: dict[tuple[object, ...], tuple[str, int]] = {}
    for function in program.functions.values():
        for op in function.ops:
            for binding in _bindings(op):
                if isinstance(binding, Stored):
                    stored[binding.file.path, binding.offset] = (binding.type.dtype, binding.nbytes)
                elif isinstance(binding, Immediate) and not isinstance(binding.data, tuple) and binding.data.size >= 10:
                    nbytes = packed_bytes(binding.type.dtype, binding.data.size)
                    stored[function.name, id(binding)] = (binding.type.dtype, nbytes)
    count = Counter(dtype for dtype, _ in stored.values())
    total: Counter[str] = Counter()
    for dtype, nbytes in stored.values():
        total[dtype] += nbytes
    return tuple(WeightStorage(dtype, count[dtype], nbytes) for dtype, nbytes in total.most_common())


def _bindings(op: MilOp) -> Iterator[Binding]:
    yield from op.attributes.values()
    for group in op.inputs.values():
        yield from group


def _departures(ops: list[MilOp], constants: Mapping[str, Constant]) -> Iterator[Departure]:
    for reason, source, concerned in _RULES:
        names = tuple(op.name for op in ops if concerned(op, constants))
        if names:
            yield Departure(reason, names, source)


def _is_float32(op: MilOp, _: Mapping[str, Constant]) -> bool:
    return op.type not in _MOVES_NOTHING and any(o.type.dtype in ("float32", "float64") for o in op.outputs)


def _is_dynamic(op: MilOp, _: Mapping[str, Constant]) -> bool:
    return any(o.type.is_dynamic for o in op.outputs)


def _is_high(op: MilOp, _: Mapping[str, Constant]) -> bool:
    return any(len(o.type.shape) > HIGHEST_RANK for o in op.outputs)


def _is_whole(op: MilOp, _: Mapping[str, Constant]) -> bool:
    return any(o.type.dtype in _WHOLE_NUMBERS for o in op.outputs)


def _is_indexed(op: MilOp, _: Mapping[str, Constant]) -> bool:
    return op.type in _INDEXED


def _is_dilated(op: MilOp, constants: Mapping[str, Constant]) -> bool:
    if op.type not in ("conv", "conv_transpose"):
        return False
    given = [constants.get(b.name) if isinstance(b, Reference) else b for b in op.inputs.get("dilations", ())]
    arrays = [c.data for c in given if isinstance(c, Immediate) and not isinstance(c.data, tuple)]
    return any(int(d) > 1 for array in arrays for d in array.flatten())


_Rule = tuple[str, str, Callable[[MilOp, Mapping[str, Constant]], bool]]

_RULES: tuple[_Rule, ...] = (
    (
        "float32 operations run on the CPU or the GPU: a declared type is the least precision Core ML may use",
        "https://apple.github.io/coremltools/docs-guides/source/typed-execution.html",
        _is_float32,
    ),
    (
        f"values of rank above {HIGHEST_RANK} don't fit the Neural Engine",
        "https://github.com/apple/coreai-models",
        _is_high,
    ),
    (
        "extents known only at run time: the Neural Engine wants static shapes",
        "https://github.com/apple/coreai-models",
        _is_dynamic,
    ),
    (
        "32-bit whole numbers: the Neural Engine has float16, int8 and int16",
        "https://github.com/apple/coreai-models",
        _is_whole,
    ),
    (
        "gathering and scattering are known to run elsewhere",
        "https://github.com/hollance/neural-engine/blob/master/docs/unsupported-layers.md",
        _is_indexed,
    ),
    (
        "dilated convolutions are known to run elsewhere",
        "https://github.com/hollance/neural-engine/blob/master/docs/unsupported-layers.md",
        _is_dilated,
    ),
    (
        "results that depend on the data's order or values are computed on the CPU",
        "https://github.com/hollance/neural-engine/blob/master/docs/unsupported-layers.md",
        lambda op, _: op.type in _DATA_DEPENDENT,
    ),
)
