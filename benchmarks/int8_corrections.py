"""What each step of the 8-bit recipe is worth on the demo model: one change at a time, drawn in PyTorch.

    python benchmarks/int8_corrections.py [--pictures 64]

Prints a Markdown table: mean and worst PSNR over the same pictures, which calibration has not seen.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch

if __name__ == "__main__":  # run as a script: import from the checkout, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from cmexport.checkpoints import load_checkpoint
from cmexport.demo import demo_checkpoint
from cmexport.graph.capture import capture
from cmexport.graph.rewrites import REWRITES
from cmexport.graph.rewriting import apply_rewrites
from cmexport.quantize.bias_correction import correct_biases
from cmexport.quantize.codes import (
    CONVOLUTIONS,
    INTEGER_PRODUCTS,
    PER_TENSOR,
    LayerCodes,
    RoundingOptions,
    Scheme,
    encode,
)
from cmexport.quantize.int8 import Prepared, prepare
from cmexport.quantize.output_rounding import SPARED, most_harmful_outputs
from cmexport.quantize.precision_plan import PrecisionPlan
from cmexport.quantize.simulation import Simulation, psnr_db
from cmexport.sampling.methods import resolve
from cmexport.targets.onnx.int8 import PACKED
from cmexport.targets.onnx.rewrites import OWN_REWRITES

EVERYTHING = frozenset({"spatial", "linear", "attention", "pointwise", "picture"})
USUAL = frozenset({"spatial", "linear", "attention"})


@dataclass(frozen=True)
class Variant:
    """One row: which layers, in which scheme, with which corrections."""

    name: str
    scheme: Scheme
    rounding: RoundingOptions = RoundingOptions()  # noqa: RUF009
    roles: frozenset[str] = USUAL
    biases: bool = False
    spared: float = 0.0


PLAIN = RoundingOptions(least_squares=False)
VARIANTS = (
    Variant("one step per activation, every layer", PER_TENSOR, PLAIN, EVERYTHING),
    Variant("picture convolutions in float", PER_TENSOR, PLAIN, EVERYTHING - {"picture"}),
    Variant("1x1 skips in float as well", PER_TENSOR, PLAIN),
    Variant("+ least-squares rounding", PER_TENSOR),
    Variant("one step per channel, plain rounding", INTEGER_PRODUCTS, PLAIN),
    Variant("+ least-squares rounding", INTEGER_PRODUCTS),
    Variant("+ bias correction", INTEGER_PRODUCTS, biases=True),
    Variant("the same, balance 0.85 (SmoothQuant)", INTEGER_PRODUCTS, RoundingOptions(balance=0.85), biases=True),
    Variant("the same, balance 0.5", INTEGER_PRODUCTS, RoundingOptions(balance=0.5), biases=True),
    Variant("the same, ranges 5 % wider", INTEGER_PRODUCTS, RoundingOptions(margin=1.05), biases=True),
    Variant("convolutions between pairs (outputs rounded too)", CONVOLUTIONS, biases=True),
    Variant("+ the most harmful outputs spared (`--ep cpu`)", CONVOLUTIONS, biases=True, spared=SPARED),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=64)
    count = parser.parse_args().pictures
    model = load_checkpoint(demo_checkpoint())
    captured = apply_rewrites(capture(resolve(model)), [*REWRITES, *OWN_REWRITES])
    everything = PrecisionPlan({})
    layers_in_8_bits = prepare(captured, replace(everything, layers=_all_int8(captured)), operators=PACKED)
    simulation = Simulation(captured)
    inputs = simulation.inputs(range(count))
    exact = simulation.pictures(inputs)
    print("| variant | mean dB | worst dB |\n|---|---|---|")
    for variant in VARIANTS:
        scores = psnr_db(simulation.pictures(inputs, _codes(layers_in_8_bits, variant)), exact)
        print(f"| {variant.name} | {scores.mean():.2f} | {scores.min():.2f} |", flush=True)
    print("\n" + _refit(simulation, inputs, exact, layers_in_8_bits))
    return 0


def _all_int8(captured) -> dict[str, str]:
    from cmexport.quantize.layers import find_layers

    return {layer.key: "int8" for layer in find_layers(captured, PACKED)}


def _codes(prepared: Prepared, variant: Variant) -> tuple[LayerCodes, ...]:
    def scheme(role: str) -> Scheme:
        return INTEGER_PRODUCTS if variant.scheme.outputs and role in ("linear", "attention") else variant.scheme

    statistics = prepared.calibration.layers
    codes = [
        encode(layer, statistics[layer.key], scheme(layer.role), variant.rounding)
        for layer in prepared.layers
        if layer.role in variant.roles
    ]
    if variant.spared:
        spared = most_harmful_outputs(prepared.captured, codes, variant.spared)
        codes = [
            encode(c.layer, statistics[c.layer.key], INTEGER_PRODUCTS, variant.rounding) if c.layer.key in spared else c
            for c in codes
        ]
    return correct_biases(prepared.captured, codes) if variant.biases else tuple(codes)


def _refit(simulation: Simulation, inputs, exact: torch.Tensor, prepared: Prepared) -> str:
    """c_skip and c_out by least squares on half of the pictures, judged on the others (unclamped pixels only)."""
    drawn = simulation.pictures(inputs, _codes(prepared, VARIANTS[-1]))
    noise = torch.cat([given["noise"] for given in inputs])
    half = len(drawn) // 2
    inside = (drawn[:half].abs() < 1) & (exact[:half].abs() < 1)
    columns = torch.stack([drawn[:half][inside], noise[:half][inside]], dim=1).double()
    fitted = torch.linalg.lstsq(columns, exact[:half][inside].double()[:, None]).solution.flatten()
    refitted = (fitted[0] * drawn[half:] + fitted[1] * noise[half:]).float().clamp(-1, 1)
    before, after = (float(psnr_db(p, exact[half:]).mean()) for p in (drawn[half:], refitted))
    return (
        f"Refit of c_out (x {fitted[0]:.5f}) and c_skip (+ {fitted[1]:.1e}): {before:.2f} dB before, {after:.2f} after."
    )


if __name__ == "__main__":
    raise SystemExit(main())
