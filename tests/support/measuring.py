"""Fixtures: toy graphs, PSNR, one thread."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import math

import numpy as np
import pytest
import torch

from cmexport.graph.capture import CapturedGraph
from cmexport.graph.tracing import trace
from cmexport.signature import Choice, Input, Normal, Output, Signature


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def toy():
    """A function: any module of float inputs by name (one alone is `noise`), captured as a graph of its own."""

    def run(module, noise=None, **inputs):
        inputs = inputs if noise is None else {"noise": noise, **inputs}
        program = trace(module.eval().requires_grad_(False), inputs)
        with torch.no_grad():
            shape = tuple(module(**inputs).shape)
        return CapturedGraph(
            program=program,
            signature=Signature(tuple(border(inputs)), Output("image", shape)),
        )

    def border(inputs):
        batch = len(next(iter(inputs.values())))
        for name, x in inputs.items():
            law, layout = (Normal(), ("N",)) if x.is_floating_point() and len(x) == batch else (Choice(1), ())
            yield Input(name, tuple(x.shape), str(x.dtype)[6:], law, layout)

    return run


@pytest.fixture(scope="session")
def psnr():
    """A function: PSNR in dB of pictures that span 2."""

    def measure(reference, candidate):
        assert reference.shape == candidate.shape
        assert np.isfinite(candidate).all()
        mse = float(np.mean((reference.astype(np.float64) - candidate.astype(np.float64)) ** 2))
        return math.inf if mse == 0 else 10 * math.log10(4.0 / mse)

    return measure
