"""The toy target, before it is imported."""

from __future__ import annotations

from dataclasses import dataclass

from cmexport.targets.info import Finding, Library, LoweringOptions, Option, TargetInfo


@dataclass(frozen=True)
class ToyOptions(LoweringOptions):
    wheels: int = 3


def probe() -> Finding:
    return Finding("works", "rolls")


INFO = TargetInfo(
    name="toy",
    title="Toy",
    summary="Export a checkpoint to the toy format.",
    help="Export to the toy format.\n\nMakes model.toy.",
    suffix=".toy",
    precisions=("fp32",),
    loader="support.toy.target:ToyTarget",
    verified_by="torch",
    scope="Toys don't run on phones.",
    options=ToyOptions,
    spelled=(Option("wheels", "How many wheels it has.", int, "N"),),
    libraries=(Library("Toy box", "toys", ("numpy",), "toy", "support.toy.info:probe"),),
    devices=("local", "browser"),
)
