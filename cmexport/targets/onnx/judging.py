"""Pictures that a written file draws against those of the graph it was made of: what a budget is measured by."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from cmexport.graph.capture import CapturedGraph
from cmexport.onnxfile.runner import OnnxRuntimeRunner
from cmexport.quantize.int8 import TRIAL_SEED
from cmexport.quantize.simulation import Simulation, as_floats, psnr_db
from cmexport.runner import picture_of
from cmexport.targets.base import TellStep

PICTURES = 64
"""As many as verification draws, and as the packaged list has prompts: the mean over its first 16 is 2 dB higher."""
PICTURES_OF_LARGE_MODELS = 16


class Judge:
    """Scores files on pictures that neither calibration nor verification draws.

    Args:
        captured: the graph in float32.
        pictures: how many, rounded up to whole runs.
        progress: told before PyTorch draws them.
    """

    def __init__(self, captured: CapturedGraph, pictures: int, progress: TellStep) -> None:
        self._simulation = Simulation(captured)
        runs = -(-pictures // captured.signature.batch)
        self._inputs = self._simulation.inputs(range(TRIAL_SEED, TRIAL_SEED + runs))
        self._progress = progress

    @cached_property
    def _exact(self) -> Tensor:
        self._progress("pictures to compare with")
        return self._simulation.pictures(self._inputs)

    def scores(self, path: Path) -> tuple[float, ...]:
        """PSNR in dB of each picture in ONNX Runtime on the CPU, peak 2.0."""
        exact = self._exact
        with OnnxRuntimeRunner(path) as run:
            arrays = ({name: tensor.numpy() for name, tensor in given.items()} for given in self._inputs)
            drawn = torch.cat([as_floats(torch.from_numpy(picture_of(run(each)))) for each in arrays])
        return tuple(psnr_db(drawn, exact).tolist())
