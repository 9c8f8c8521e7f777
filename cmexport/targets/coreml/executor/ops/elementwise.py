"""One number in, one number out; two with broadcasting."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cmexport.targets.coreml.executor.ops.calling import BadCall, Call, OpFunction, Result, broadcast
from cmexport.targets.coreml.executor.values import TORCH_TYPES

CAST_TYPES = {
    "fp16": "float16",
    "fp32": "float32",
    "fp64": "float64",
    "bool": "bool",
    **{name: name for name in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32")},
}
"""How `cast` spells types."""


def _unary(function: Callable[[Tensor], Tensor]) -> OpFunction:
    def run(call: Call) -> Tensor:
        return function(call.tensor("x"))

    return run


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> OpFunction:
    def run(call: Call) -> Tensor:
        x, y = call.tensor("x"), call.tensor("y")
        call.promise(broadcast(x, y))
        return function(x, y)

    return run


def _exact(function: Callable[[Tensor, Tensor], Tensor]) -> OpFunction:
    """A sum, difference or product: of two halves torch computes it in float32 and rounds once, without widening."""
    widened = _binary(function)

    def run(call: Call) -> Result:
        x, y = call.stored("x"), call.stored("y")
        if not x.dtype == y.dtype == torch.float16:
            return widened(call)
        call.promise(broadcast(x, y))
        return function(x, y)

    return run


def _shifted(function: Callable[[Tensor], Tensor], epsilon: float) -> OpFunction:
    """f(x + epsilon): the sum is an intermediate result."""

    def run(call: Call) -> Tensor:
        return function(call.arithmetic.round(call.tensor("x") + call.real("epsilon", epsilon)))

    return run


def _logical(function: Callable[[Tensor, Tensor], Tensor]) -> OpFunction:
    return _binary(lambda x, y: function(x.bool(), y.bool()))


def _floor_mod(x: Tensor, y: Tensor) -> Tensor:
    """The remainder with the divisor's sign, as numpy's."""
    return torch.remainder(x, y)


def _power(x: Tensor, y: Tensor) -> Tensor:
    """Integers go through float64: torch refuses negative integer exponents."""
    if x.is_floating_point() or y.is_floating_point():
        return torch.pow(x, y)
    return torch.pow(x.double(), y.double())


def _cast(call: Call) -> Tensor:
    """Towards zero from real to whole numbers."""
    spelled = call.text("dtype")
    if spelled not in CAST_TYPES:
        raise BadCall(f"there is no cast to {spelled!r}")
    x = call.tensor("x")
    if call.arithmetic.wide and spelled == "fp16":
        return x.float()
    return x != 0 if spelled == "bool" else x.to(TORCH_TYPES[CAST_TYPES[spelled]])


def _clip(call: Call) -> Tensor:
    return torch.clamp(call.tensor("x"), call.real("alpha"), call.real("beta"))


def _threshold(call: Call) -> Tensor:
    return torch.clamp(call.tensor("x"), min=call.real("alpha"))


OPERATIONS: dict[str, OpFunction] = {
    "abs": _unary(torch.abs),
    "acos": _unary(torch.acos),
    "asin": _unary(torch.asin),
    "atan": _unary(torch.atan),
    "atanh": _unary(torch.atanh),
    "ceil": _unary(torch.ceil),
    "cos": _unary(torch.cos),
    "cosh": _unary(torch.cosh),
    "erf": _unary(torch.erf),
    "exp": _unary(torch.exp),
    "exp2": _unary(torch.exp2),
    "floor": _unary(torch.floor),
    "logical_not": _unary(lambda x: x.bool().logical_not()),
    # Halfway cases to the even neighbour, as numpy's (the op's own value inference).
    "round": _unary(torch.round),
    "sign": _unary(torch.sign),
    "sin": _unary(torch.sin),
    "sinh": _unary(torch.sinh),
    "sqrt": _unary(torch.sqrt),
    "square": _unary(torch.square),
    "tan": _unary(torch.tan),
    "tanh": _unary(torch.tanh),
    "inverse": _shifted(torch.reciprocal, 1e-4),
    "log": _shifted(torch.log, 1e-45),
    "rsqrt": _shifted(torch.rsqrt, 1e-12),
    "add": _exact(torch.add),
    "sub": _exact(torch.sub),
    "mul": _exact(torch.mul),
    "real_div": _binary(torch.true_divide),
    "floor_div": _binary(lambda x, y: torch.floor_divide(x, y)),
    "mod": _binary(_floor_mod),
    "pow": _binary(_power),
    "maximum": _binary(torch.maximum),
    "minimum": _binary(torch.minimum),
    "equal": _binary(torch.eq),
    "not_equal": _binary(torch.ne),
    "greater": _binary(torch.gt),
    "greater_equal": _binary(torch.ge),
    "less": _binary(torch.lt),
    "less_equal": _binary(torch.le),
    "logical_and": _logical(torch.logical_and),
    "logical_or": _logical(torch.logical_or),
    "logical_xor": _logical(torch.logical_xor),
    "cast": _cast,
    "clip": _clip,
    "threshold": _threshold,
}
