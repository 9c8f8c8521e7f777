"""The machine's matrix products per arithmetic: `python -m benchmarks.harness.products EDGE`, shapes on standard input.

Reads one JSON list of [M, K, N, count]; writes `{"fp32": {"large": ..., "at_shapes": ...}, ...}` in GFLOP/s.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

MINIMUM_S, LARGE_S, MOST_RUNS = 0.02, 0.4, 30
"""A shape is repeated until this much time has passed; the fastest run counts."""


def operands(arithmetic: str, m: int, k: int, n: int) -> Callable[[], Any]:
    """A product of random matrices, ready to be timed; the right factor is stored as (N, K), as weights are."""
    if arithmetic == "int8":
        left = torch.randint(-127, 127, (m, k), dtype=torch.int8)
        right = torch.randint(-127, 127, (n, k), dtype=torch.int8).t()
        return lambda: torch._int_mm(left, right)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[arithmetic]
    left, right = torch.randn(m, k).to(dtype), torch.randn(n, k).to(dtype).t()
    return lambda: left @ right


def fastest(run: Callable[[], Any], least_s: float = MINIMUM_S) -> float:
    """Seconds of the fastest run."""
    run()
    best, start, runs = float("inf"), time.perf_counter(), 0
    while runs < 2 or (runs < MOST_RUNS and time.perf_counter() - start < least_s):
        begin = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - begin)
        runs += 1
    return best


def rates(arithmetic: str, shapes: Sequence[tuple[int, int, int, int]], edge: int) -> dict[str, float]:
    """GFLOP/s of an edge^3 product, and of all `shapes` (M, K, N, count) together."""
    large = (edge, edge, edge)
    best = {
        shape: fastest(operands(arithmetic, *shape), LARGE_S if shape == large else MINIMUM_S)
        for shape in dict.fromkeys([large, *(shape[:3] for shape in shapes)])
    }
    work = sum(2 * m * k * n * count for m, k, n, count in shapes)
    spent = sum(best[m, k, n] * count for m, k, n, count in shapes)
    return {"large": 2 * edge**3 / best[large] / 1e9, "at_shapes": work / spent / 1e9}


def main() -> None:
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    torch.manual_seed(0)
    shapes = [tuple(shape) for shape in json.load(sys.stdin)]
    found: dict[str, Any] = {}
    with torch.inference_mode():
        for arithmetic in ("fp32", "bf16", "int8"):
            try:
                found[arithmetic] = rates(arithmetic, shapes, int(sys.argv[1]))
            except RuntimeError as error:  # an arithmetic that this build or processor lacks
                print(f"{arithmetic}: {error}", file=sys.stderr)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
