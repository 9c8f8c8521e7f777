"""int8 for TensorRT: which layers, put into the graph in the form of `centred`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cmexport.graph.capture import CapturedGraph
from cmexport.quantize.codes import INTEGER_PRODUCTS
from cmexport.quantize.int8 import encode_layers, finish, prepare
from cmexport.quantize.precision_plan import PrecisionPlan
from cmexport.targets.base import Progress
from cmexport.targets.tensorrt.centred.insertion import with_centred_layers

ROLES = frozenset({"picture", "spatial", "pointwise", "linear"})
"""All that has a form in `centred`; which of them is rounded is the plan's affair."""


@dataclass(frozen=True, eq=False)
class Int8Graph:
    """A graph with layers in 8 bits, and the account for the manifest."""

    captured: CapturedGraph
    facts: Mapping[str, Any]


def to_int8(captured: CapturedGraph, plan: PrecisionPlan, progress: Progress) -> Int8Graph:
    """Calibrate, round and insert.

    Raises:
        CheckpointError: the plan names unknown layers, or a layer's input or output is not finite.
    """
    prepared = prepare(captured, plan, progress, roles=ROLES)
    codes = encode_layers(prepared, lambda _: INTEGER_PRODUCTS, progress)
    found = finish(prepared, codes, progress)
    return Int8Graph(
        with_centred_layers(captured, found.codes),
        {**found.facts(), "activations": "int8, centred per channel", "weights": "int8, a step per output channel"},
    )
