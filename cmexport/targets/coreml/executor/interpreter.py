"""Run one function of a program, operation by operation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from cmexport.errors import CheckpointError, UsageError
from cmexport.runner import Array
from cmexport.targets.coreml.executor.modes import MODES, WIDE, Arithmetic, Mode, flush
from cmexport.targets.coreml.executor.ops import OPS
from cmexport.targets.coreml.executor.ops.calling import BadCall, Call, Memo, Room, widen
from cmexport.targets.coreml.executor.program import (
    Binding,
    Constant,
    MilFunction,
    MilOp,
    MilProgram,
    Reference,
    TensorType,
)
from cmexport.targets.coreml.executor.values import TORCH_TYPES, Value, load, matches, numpy_input_type

Observer: TypeAlias = Callable[[MilOp, tuple[Tensor, ...]], None]


@dataclass(frozen=True, eq=False)
class _Prepared:
    """An operation before its run.

    Attributes:
        fixed: arguments that are constant, by parameter.
        varying: bindings of the others.
        arithmetic: how it rounds.
        memo: keeps what it makes of its constants.
    """

    fixed: Mapping[str, tuple[Value, ...]]
    varying: tuple[tuple[str, tuple[Binding, ...]], ...]
    arithmetic: Arithmetic
    memo: Memo


class Executor:
    """A function of a saved program, ready to be called.

    Args:
        program: as read by `read_program`.
        function: its name; None is the program's default.
        mode: how half precision is computed; see `modes`.
        low_memory: expand compressed weights for every call anew and forget them after use. It saves the expanded
            weights' size and costs their expansion.
        observer: called after every operation that isn't constant with the operation and its results in their declared
            types, before they are freed. It must not change them.

    Raises:
        UsageError: there is no such function or mode.
    """

    def __init__(
        self,
        program: MilProgram,
        function: str | None = None,
        mode: Mode = "ideal",
        *,
        low_memory: bool = False,
        observer: Observer | None = None,
    ) -> None:
        name = program.default_function if function is None else function
        if name not in program.functions:
            raise UsageError(f"{program.path}: there is no function '{name}', only {', '.join(program.functions)}")
        if mode not in (*MODES, WIDE):
            raise UsageError(f"there is no mode '{mode}', only {', '.join((*MODES, WIDE))}")
        self._path = program.path
        self._function: MilFunction = program.functions[name]
        self._mode = mode
        self._low_memory = low_memory
        self._observer = observer
        self._opset = _opset_number(self._function.opset)
        self._definitions = {
            output.name: index for index, op in enumerate(self._function.ops) if op.is_constant for output in op.outputs
        }
        self._expanded: dict[str, Value] = {}
        self._last_uses = _last_uses(self._function)
        self._prepared: dict[MilOp, _Prepared] = {}
        self._room = Room()

    @property
    def function(self) -> MilFunction:
        """What is run."""
        return self._function

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run once.

        Args:
            inputs: one array per input, in its declared shape and type.

        Returns:
            The function's outputs by name, in their declared types, but float32 for float16 in mode "wide". An output
            that the package describes as a picture is the float tensor the program computes, (1, C, H, W) in 0 … 255:
            rounding, clamping and layout are Core ML's work after the program, and the caller's here.

        Raises:
            UsageError: inputs are missing, unknown, or of another shape or type.
            CheckpointError: an operation can't be executed, or gives another shape than the program says.
        """
        env = self._checked(inputs)
        for op, results in self._steps(env):
            if self._observer is not None:
                self._observer(op, results)
        with torch.inference_mode():
            return {name: self._returned(name, env) for name in self._function.outputs}

    def steps(self, inputs: Mapping[str, Array]) -> Iterator[tuple[MilOp, tuple[Tensor, ...]]]:
        """Run once, stopping after every operation that isn't constant: it and its results, as an observer sees them.

        Two executors of one program can be stepped side by side; neither keeps more than it still needs.

        Raises:
            UsageError, CheckpointError: as when called, but when the step is taken.
        """
        yield from self._steps(self._checked(inputs))

    def _steps(self, env: dict[str, Value]) -> Iterator[tuple[MilOp, tuple[Tensor, ...]]]:
        for index, op in enumerate(self._function.ops):
            if op.is_constant:
                continue
            # Not around the whole loop: others may run between two steps.
            with torch.inference_mode():
                results = self._run(op, env)
            yield op, results
            for name in self._last_uses.get(index, ()):
                env.pop(name, None)

    def constant(self, name: str) -> Array:
        """A constant's numbers as operations see them, e.g. a compressed weight after its expansion.

        Raises:
            UsageError: there is no constant of that name.
            CheckpointError: it can't be expanded.
        """
        if name not in self._definitions:
            raise UsageError(f"{self._path}: function '{self._function.name}' has no constant '{name}'")
        with torch.inference_mode():
            return self._returned(name, {})

    def _checked(self, inputs: Mapping[str, Array]) -> dict[str, Value]:
        declared = {i.name: i.type for i in self._function.inputs}
        if set(inputs) != set(declared):
            wanted, given = ", ".join(sorted(declared)) or "none", ", ".join(sorted(inputs)) or "none"
            raise UsageError(f"{self._path}: function '{self._function.name}' takes inputs {wanted}; given: {given}")
        env: dict[str, Value] = {}
        for name, kind in declared.items():
            array = inputs[name]
            dtype = numpy_input_type(kind.dtype)
            if not matches(array.shape, kind.shape) or array.dtype.name != dtype:
                raise UsageError(f"{self._path}: input '{name}' is {kind}; given: {array.dtype}{list(array.shape)}")
            copied: Any = array.copy()
            wide = copied.astype("int64") if dtype in ("uint16", "uint32", "uint64") else copied
            env[name] = self._stored(torch.from_numpy(wide), kind)
        return env

    def _run(self, op: MilOp, env: dict[str, Value]) -> tuple[Tensor, ...]:
        """Execute one operation and put its results, in their declared types, into `env`."""
        prepared = self._prepare(op)
        arguments = dict(prepared.fixed) | {
            name: tuple(self._value(b, env, op) for b in bindings) for name, bindings in prepared.varying
        }
        # A weight is what its stored numbers say, also where it has to be expanded first.
        wide = prepared.arithmetic.wide
        if wide:
            arguments = {
                name: tuple(widen(v) if isinstance(v, Tensor) else v for v in values)
                for name, values in arguments.items()
            }
        call = Call(op, arguments, prepared.arithmetic, self._opset, prepared.memo)
        try:
            result = OPS[op.type](call)
            results = result if isinstance(result, tuple) else (result,)
            if len(results) != len(op.outputs):
                raise BadCall(f"it gives {len(results)} results, and the program says {len(op.outputs)}")
            stored = tuple(self._stored(r, o.type, wide) for r, o in zip(results, op.outputs, strict=True))
        except _FAILURES as error:
            raise self._failed(op, str(error).strip().split("\n")[0] or type(error).__name__) from error
        for tensor, output in zip(stored, op.outputs, strict=True):
            if not matches(tuple(tensor.shape), output.type.shape):
                raise self._failed(
                    op, f"its result has shape {list(tensor.shape)}, and the program says {list(output.type.shape)}"
                )
            env[output.name] = tensor
        return stored

    def _prepare(self, op: MilOp) -> _Prepared:
        """What is the same for every run of an operation; looked up once, but in low-memory mode."""
        prepared = self._prepared.get(op)
        if prepared is not None:
            return prepared
        kept = not (self._low_memory or op.is_constant)
        fixed: dict[str, tuple[Value, ...]] = {
            name: (self._loaded(constant),) for name, constant in op.attributes.items()
        }
        varying = []
        for name, bindings in op.inputs.items():
            if kept and all(self._is_constant(b) for b in bindings):
                fixed[name] = tuple(self._value(b, {}, op) for b in bindings)
            else:
                fixed.pop(name, None)
                varying.append((name, bindings))
        wide = self._mode == WIDE and not op.is_constant
        half = (
            self._mode in ("fp16", "ftz") and not op.is_constant and any(o.type.dtype == "float16" for o in op.outputs)
        )
        memo = Memo(frozenset(name for name, _ in varying), self._room if kept else None)
        prepared = _Prepared(fixed, tuple(varying), Arithmetic(half, half and self._mode == "ftz", wide), memo)
        if kept:
            self._prepared[op] = prepared
        return prepared

    def _is_constant(self, binding: Binding) -> bool:
        return not isinstance(binding, Reference) or binding.name in self._definitions

    def _value(self, binding: Binding, env: Mapping[str, Value], op: MilOp) -> Value:
        if not isinstance(binding, Reference):
            return self._loaded(binding)
        if binding.name in env:
            return env[binding.name]
        if binding.name not in self._definitions:
            raise self._failed(op, f"it is constant and uses '{binding.name}', which isn't")
        return self._constant(binding.name)

    def _constant(self, name: str) -> Value:
        """A constant's value: expanded once, or every time in low-memory mode."""
        if name in self._expanded:
            return self._expanded[name]
        env: dict[str, Value] = {}
        for index in self._needed_by(name):
            op = self._function.ops[index]
            if op.type != "const":
                self._run(op, env)
            elif "val" not in op.attributes or len(op.outputs) != 1:
                raise self._failed(op, "it has no value")
            else:
                env[op.outputs[0].name] = self._loaded(op.attributes["val"])
        if not self._low_memory:
            self._expanded[name] = env[name]
        return env[name]

    def _needed_by(self, name: str) -> list[int]:
        """Constant operations that lead to a constant, itself included, in program order."""
        needed, pending = set(), [name]
        while pending:
            index = self._definitions.get(pending.pop())
            if index is not None and index not in needed:
                needed.add(index)
                bindings = [b for group in self._function.ops[index].inputs.values() for b in group]
                pending += [b.name for b in bindings if isinstance(b, Reference)]
        return sorted(needed)

    def _loaded(self, constant: Constant) -> Value:
        value = load(constant)
        return self._stored(value, constant.type) if isinstance(value, Tensor) else value

    def _stored(self, x: Tensor, kind: TensorType, wide: bool = False) -> Tensor:
        """A value as its declared type holds it; where `wide`, float16 is held in float32."""
        if kind.dtype not in TORCH_TYPES:
            raise BadCall(f"a result can't be of type {kind.dtype}")
        if wide and kind.dtype == "float16":
            return x.float()
        stored = x.to(TORCH_TYPES[kind.dtype])
        return flush(stored) if self._mode == "ftz" and kind.dtype == "float16" else stored

    def _returned(self, name: str, env: Mapping[str, Value]) -> Array:
        value = env[name] if name in env else self._constant(name)
        if not isinstance(value, Tensor):
            raise CheckpointError(f"{self._path}: output '{name}' is text; convert the model again")
        dtypes = {i.name: i.type.dtype for i in self._function.inputs}
        dtypes |= {o.name: o.type.dtype for op in self._function.ops for o in op.outputs}
        array: Array = value.float().numpy() if value.dtype == torch.bfloat16 else value.numpy()
        dtype = _returned_type(dtypes[name])
        if self._mode == WIDE and name in env and dtype == "float16":
            dtype = "float32"
        # A copy: the value may be an input or a constant, which the caller could then change.
        return array.astype(dtype, copy=True)

    def _failed(self, op: MilOp, reason: str) -> CheckpointError:
        return CheckpointError(f"{self._path}: {op.where} can't be executed: {reason}; convert the model again")


_FAILURES = (BadCall, RuntimeError, ValueError, LookupError, TypeError, ArithmeticError, MemoryError, AttributeError)
"""Everything torch raises on arguments that don't fit."""


def _last_uses(function: MilFunction) -> dict[int, list[str]]:
    """Names that nothing needs after an operation, by its index."""
    last: dict[str, int] = {}
    for index, op in enumerate(function.ops):
        if op.is_constant:
            continue
        for output in op.outputs:
            last[output.name] = index
        for bindings in op.inputs.values():
            last.update({b.name: index for b in bindings if isinstance(b, Reference)})
    uses: dict[int, list[str]] = {}
    for name, index in last.items():
        if name not in function.outputs:
            uses.setdefault(index, []).append(name)
    return uses


def _opset_number(opset: str) -> int:
    """5 for "CoreML5" (iOS 15) and so on; the newest for names without a number."""
    digits = opset.removeprefix("CoreML")
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 4 else 8


def _returned_type(dtype: str) -> str:
    return "float32" if dtype == "bfloat16" else numpy_input_type(dtype)
