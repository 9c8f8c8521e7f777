"""The PyTorch reference as a runner: what every artefact is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Self

import numpy as np
import torch

from cmexport.runner import Array
from cmexport.sampling.resolved import Sampler
from cmexport.sampling.stages import Stage


class TorchRunner:
    """The sampler, or a part of it, in eager float32 on the CPU."""

    def __init__(self, sampler: Sampler | Stage) -> None:
        self._sampler = sampler.module()
        self._output = sampler.signature.output.name

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run once on arrays named as the graph's inputs."""
        # A target's border may have narrower whole numbers; the sampler was written for int64.
        wide = {name: a.astype(np.int64) if a.dtype.kind in "iu" else a for name, a in inputs.items()}
        tensors = {name: torch.from_numpy(array) for name, array in wide.items()}
        with torch.no_grad():
            image = self._sampler(**tensors)
        return {self._output: image.numpy()}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del self._sampler
