"""The toy target as the rest of cmexport sees it."""

from __future__ import annotations

from functools import partial

import torch

from cmexport.errors import UsageError
from cmexport.parity.ladder import Rung
from cmexport.targets.base import LoweredModel, Target


class ToyRunner:
    def __init__(self, path):
        with path.open("rb") as file:
            self._module = torch.export.load(file).module()

    def __call__(self, inputs):
        return {"image": self._module(**{n: torch.from_numpy(a) for n, a in inputs.items()}).numpy()}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


class ToyTarget(Target):
    def rewrites_for(self, options):
        if options.wheels < 3:
            raise UsageError(f"--wheels {options.wheels}: a toy with fewer than 3 falls over")
        return ()

    def lower_one(self, captured, options, folder, progress, name="model"):
        with (folder / f"{name}.toy").open("wb") as file:
            torch.export.save(captured.program, file)
        plan = {"default": "float32", "wheels": options.wheels}
        return LoweredModel((f"{name}.toy",), plan, {}, {"torch": torch.__version__}, captured.signature)

    def stamp(self, folder, files, facts):
        pass

    def rungs(self, folder, files, session):
        return (Rung("torch, loaded again", partial(ToyRunner, folder / files[0])),)

    def remarks(self, folder, files, session):
        return (f"{files[0]} rolls",)
