"""From a precision's name to a graph with compressed weights: `w8`, `w6`, `w4`, `mixed`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch

from cmexport.graph.capture import CapturedGraph
from cmexport.graph.tracing import to_module
from cmexport.memory import return_free_memory
from cmexport.model import HUGE_MODEL, LARGE_MODEL
from cmexport.quantize.formats import FLOAT, LINEAR8, PALETTES, WeightFormat
from cmexport.quantize.planning import BitAllocation, Candidate, candidates, choose
from cmexport.quantize.rounding import rounded
from cmexport.quantize.sensitivity import SAMPLES, run_unfinished, weight_sensitivity
from cmexport.quantize.weights import find_weights, set_weights, with_weights

MIXED = "mixed"
"""The precision of `--budget-db`: whatever bits keep the picture that good."""


@dataclass(frozen=True)
class Recipe:
    """What a precision allows: storage formats, bits per weight on average (tables counted)."""

    formats: tuple[WeightFormat, ...]
    mean_bits: float


# The tenths beyond the name pay for tables and for the few layers that need more; files stay at 0.27, 0.21 and 0.15 of
# float32.
RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "w8": Recipe((PALETTES[-1], LINEAR8, FLOAT), 8.1),
        "w6": Recipe((*PALETTES, LINEAR8, FLOAT), 6.1),
        "w4": Recipe((*PALETTES, LINEAR8, FLOAT), 4.2),
        MIXED: Recipe((*PALETTES, LINEAR8, FLOAT), 16.0),
    }
)

_TRIAL_PICTURES = 16
_TRIAL_PICTURES_OF_PROMPTS = 64
"""As many as the packaged list has prompts: of the emoji model, the first 16 are 2 dB better than all."""
_UNSEEN_DB = 0.3
"""Asked beyond a budget, for what the trial does not see: half-precision arithmetic, other pictures. Those of prompts
differ by 3 to 4 dB: there it is two standard errors of their mean, where these are more."""

# Sensitivities need a gradient and a sum of squares beside the weights: three times the model. Integers everywhere keep
# w8's gate without them, and four samples (at ImageNet-64's size 15 s) rank layers well enough for the others.
_LARGE_MODEL_SAMPLES = 4

_LOOKED_AT = 2**18
"""Elements of each weight of a huge model from which the errors of formats are predicted: all 860 M of Stable Diffusion
1.5's take 5 minutes in six formats, as many as this half a minute."""


@dataclass(frozen=True)
class Compression:
    """A compressed graph and how it came about.

    `captured` computes with the rounded weights in float32; a target's job is to store them in `weights`' formats.
    `looked_at` elements of each weight predicted its errors; None: all.
    """

    captured: CapturedGraph
    weights: BitAllocation
    budget_db: float | None = None
    looked_at: int | None = None

    def facts(self) -> dict[str, Any]:
        """For the manifest."""
        facts: dict[str, Any] = {
            "weights": dict(Counter(str(c.format) for c in self.weights.chosen)),
            "mean_weight_bits": round(self.weights.mean_bits, 3),
        }
        if self.budget_db is not None:
            facts["budget_db"] = self.budget_db
        if self.weights.predicted:
            facts["predicted_db"] = round(self.weights.predicted_db, 1)
            if self.looked_at is not None:
                facts["predicted_from"] = f"{self.looked_at} elements of each weight"
        return facts


def compress(
    captured: CapturedGraph,
    precision: str,
    budget_db: float | None = None,
    progress: Callable[[str], None] = lambda _: None,
    palette_bits: Collection[int] = (2, 3, 4, 6),
) -> Compression:
    """Round weights as `precision` asks.

    Args:
        captured: after the rewrites.
        precision: a key of `RECIPES`.
        budget_db: for "mixed", the PSNR (peak 2.0, mean over pictures) to keep with the fewest bits.
        progress: told about the stages.
        palette_bits: widths of palette indices that the target has.
    """
    recipe = RECIPES[precision]
    weights = find_weights(to_module(captured.program))
    elements = sum(w.value.numel() for w in weights)
    formats = tuple(f for f in recipe.formats if f.kind != "palette" or f.bits in palette_bits)
    samples, dtype, looked_at = SAMPLES, torch.float32, None
    if elements > LARGE_MODEL:
        formats = (LINEAR8,) if precision == "w8" else formats
        samples = _LARGE_MODEL_SAMPLES
    if elements > HUGE_MODEL:
        dtype, looked_at = torch.bfloat16, _LOOKED_AT
    sensitivity = None
    if len(formats) > 1:
        progress("weight sensitivity")
        sensitivity = weight_sensitivity(captured, weights, samples, dtype=dtype)
        # Activations and gradients of a whole network; their pages are the next stage's.
        return_free_memory()
    progress("weight formats")
    shares = sensitivity or (None,) * len(weights)
    options = [candidates(w, s, formats, looked_at) for w, s in zip(weights, shares, strict=True)]

    def values(plan: BitAllocation) -> dict[str, torch.Tensor]:
        triples = zip(weights, shares, plan.chosen, strict=True)
        return {name: rounded(w.value, s, c.format) for w, s, c in triples for name in w.names}

    if precision == MIXED and budget_db is not None:
        plan = _smallest(captured, options, elements, budget_db, values)
    else:
        plan = replace(choose(options, elements, recipe.mean_bits), predicted=sensitivity is not None)
    return Compression(with_weights(captured, values(plan)), plan, budget_db, looked_at)


def _smallest(
    captured: CapturedGraph,
    options: list[tuple[Candidate, ...]],
    elements: int,
    budget_db: float,
    values: Callable[[BitAllocation], dict[str, torch.Tensor]],
) -> BitAllocation:
    """The plan of fewest bits whose pictures, drawn, keep `budget_db`: predictions are a decibel or two off."""
    worded = any(i.law is not None and i.law.worded for i in captured.signature.inputs)
    runs = _TRIAL_PICTURES_OF_PROMPTS if worded else _TRIAL_PICTURES
    trials = [captured.examples(40_000 + i) for i in range(runs)]
    exact = _pictures(captured, {}, trials)
    asked = budget_db
    best: BitAllocation | None = None
    for _ in range(6):
        plan = choose(options, elements, float("inf"), asked)
        error = ((_pictures(captured, values(plan), trials) - exact) ** 2).flatten(1).mean(1)
        scores = 10 * torch.log10(4.0 / error.clamp_min(1e-20))
        unsure = 2.0 * float(scores.std()) / math.sqrt(len(scores)) if worded else 0.0
        found, goal = float(scores.mean()), budget_db + max(_UNSEEN_DB, unsure)
        if found >= goal and (best is None or plan.mean_bits < best.mean_bits):
            best = plan
        if best is not None and abs(found - goal) < 0.2:
            break
        asked += goal - found + (0.05 if found < goal else 0.0)
    return best or choose(options, elements, float("inf"))


def _pictures(
    captured: CapturedGraph, values: Mapping[str, torch.Tensor], inputs: list[dict[str, torch.Tensor]]
) -> torch.Tensor:
    module = to_module(captured.program)
    set_weights(module, values)
    with torch.no_grad():
        # The model clamps its pictures; errors beyond the clamp don't show.
        return torch.cat([run_unfinished(module, given)[0].clamp(-1, 1) for given in inputs])
