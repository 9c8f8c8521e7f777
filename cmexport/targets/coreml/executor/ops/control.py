"""Choosing and passing on. Conditions and loops are not known here: networks with static shapes have none."""

from __future__ import annotations

import torch
from torch import Tensor

from cmexport.targets.coreml.executor.ops.calling import Call, OpFunction, broadcast


def _select(call: Call) -> Tensor:
    a, b = call.stored("a"), call.stored("b")
    cond = call.stored("cond").bool()
    call.promise(broadcast(cond, a, b))
    return torch.where(cond, a, b)


OPERATIONS: dict[str, OpFunction] = {"identity": lambda call: call.stored("x"), "select": _select}
