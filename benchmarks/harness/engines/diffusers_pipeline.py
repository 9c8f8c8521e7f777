"""diffusers' ConsistencyModelPipeline, one step, as its documentation calls it."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.harness.engines.base import Picture, inputs_for
from benchmarks.harness.specs import EngineSpec


class DiffusersPipeline:
    """A saved pipeline folder. A run is the whole call: scheduler set-up, network, step, pictures as numpy arrays."""

    def __init__(self, spec: EngineSpec) -> None:
        self._spec = spec

    def prepare(self) -> None:
        import diffusers
        import torch
        from diffusers import ConsistencyModelPipeline

        diffusers.utils.logging.set_verbosity_error()
        self._class: Any = ConsistencyModelPipeline
        self._torch: Any = torch
        torch.set_num_threads(self._spec.threads)
        torch.set_num_interop_threads(1)

    def load(self) -> None:
        self._pipeline: Any = self._class.from_pretrained(self._spec.path)
        self._pipeline.set_progress_bar_config(disable=True)
        noise, labels = inputs_for(self._spec)
        self._noise = self._torch.from_numpy(noise)
        self._labels = None if labels is None else labels.tolist()

    def run(self) -> None:
        self._result = self._pipeline(
            batch_size=self._spec.shape[0],
            num_inference_steps=1,
            class_labels=self._labels,
            latents=self._noise,
            output_type="np",
        ).images

    def picture(self) -> Picture:
        self.run()
        levels = np.asarray(self._result, dtype=np.float32).transpose(0, 3, 1, 2)
        return np.ascontiguousarray(levels * 2.0 - 1.0)

    def arithmetic(self) -> str:
        return "fp32"
