"""How much arithmetic a network is: FLOPs, and its convolutions as matrix products."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.harness.records import FlopRecord
from cmexport.model import ConsistencyModel

Product = tuple[int, int, int]
"""(M, K, N) of a matrix product (M, K) x (K, N)."""

_ATTENTION, _LINEAR = ("bmm", "baddbmm"), ("mm", "addmm")


def measure_work(model: ConsistencyModel, batch: int) -> tuple[FlopRecord, Counter[Product]]:
    """FLOPs of one evaluation of the network, and how often each convolution-as-product occurs in it.

    A convolution with k x k taps from C to D channels, giving H x W positions, is the product
    (N H W, C k k) x (C k k, D).
    """
    products: Counter[Product] = Counter()

    def note(layer: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
        assert isinstance(layer, nn.Conv2d)
        n, channels, height, width = output.shape
        products[n * height * width, layer.weight[0].numel(), channels] += 1

    hooks = [m.register_forward_hook(note) for m in model.network.modules() if isinstance(m, nn.Conv2d)]
    x = torch.zeros(batch, model.channels, model.space.height, model.space.width)
    inputs = [x, torch.ones(1, dtype=torch.float64)]
    if model.classes is not None:
        inputs.append(torch.zeros(batch, dtype=torch.int64))
    counter = FlopCounterMode(display=False)
    # The math backend spells attention out as products, whichever fused kernel this machine would take.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        model.network(*inputs)
    for hook in hooks:
        hook.remove()
    flops = {str(op).removeprefix("aten."): int(n) for op, n in counter.get_flop_counts()["Global"].items()}
    return _split(flops), products


def _split(flops: dict[str, int]) -> FlopRecord:
    def total(*names: str) -> int:
        return sum(n for op, n in flops.items() if op.split(".")[0] in names)

    record = FlopRecord(
        convolution=total("convolution", "_convolution", "conv2d"),
        attention=total(*_ATTENTION),
        linear=total(*_LINEAR),
    )
    if record.convolution + record.attention + record.linear != sum(flops.values()):
        raise ValueError(f"operators without a column: {', '.join(flops)}")
    return record
