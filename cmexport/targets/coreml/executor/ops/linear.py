"""Matrix products."""

from __future__ import annotations

import torch
from torch import Tensor

from cmexport.targets.coreml.executor.ops.calling import BadCall, Call, OpFunction, broadcast


def product(call: Call, x: Tensor, y: Tensor) -> Tensor:
    """Multiply x @ y with numpy's broadcasting; in half precision, 32 products at a time, giving float16.

    Args:
        call: how to round.
        x: (…, L, K) or (K,).
        y: (…, K, M) or (K,).
    """
    inner = y.shape[-2] if y.dim() > 1 else y.shape[0]
    if x.shape[-1] != inner:
        raise BadCall(f"{list(x.shape)} and {list(y.shape)} can't be multiplied")
    if not call.arithmetic.half:
        return torch.matmul(x, y)
    return call.arithmetic.accumulate(
        inner, lambda run: torch.matmul(x[..., run], y[..., run, :] if y.dim() > 1 else y[run])
    )


def _linear(call: Call) -> Tensor:
    x, weight = call.tensor("x"), call.tensor("weight")
    call.promise([*x.shape[:-1], weight.shape[0]])
    result = product(call, x, weight.mT)
    bias = call.optional("bias")
    return result if bias is None else result + bias


def _matmul(call: Call) -> Tensor:
    x, y = call.tensor("x"), call.tensor("y")
    if call.flag("transpose_x") and x.dim() > 1:
        x = x.mT
    if call.flag("transpose_y") and y.dim() > 1:
        y = y.mT
    if min(x.dim(), y.dim()) > 1:
        call.promise([*broadcast(x[..., 0, 0], y[..., 0, 0]), x.shape[-2], y.shape[-1]])
    return product(call, x, y)


def _einsum(call: Call) -> Tensor:
    """Two factors; the sum runs over the letters that the result lacks."""
    values = [v.float() if v.is_floating_point() else v for v in call.tensors("values")]
    equation = call.text("equation").replace(" ", "")
    terms = equation.replace("->", ",").split(",")
    if len(terms) != 3 or len(values) != 2 or not "".join(terms).isalpha():
        raise BadCall(f"equation {equation!r} isn't a product of two tensors")
    first, second, result = terms
    summed = [letter for letter in first if letter in second and letter not in result]
    if not call.arithmetic.half or len(summed) != 1:
        return torch.einsum(equation, values)
    x_axis, y_axis = first.index(summed[0]), second.index(summed[0])
    x, y = values
    return call.arithmetic.accumulate(
        x.shape[x_axis],
        lambda run: torch.einsum(equation, [_run(x, x_axis, run), _run(y, y_axis, run)]),
    )


def _run(x: Tensor, axis: int, run: slice) -> Tensor:
    return x.narrow(axis, run.start, min(run.stop, x.shape[axis]) - run.start)


OPERATIONS: dict[str, OpFunction] = {"einsum": _einsum, "linear": _linear, "matmul": _matmul}
