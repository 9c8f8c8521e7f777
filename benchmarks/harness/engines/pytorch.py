"""PyTorch on our own network: eager, or compiled by inductor."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from benchmarks.harness.engines.base import Picture, inputs_for
from benchmarks.harness.specs import EngineSpec


class PyTorch:
    """The reference sampler; with `options["compile"]` through torch.compile, whose first run belongs to the load."""

    def __init__(self, spec: EngineSpec) -> None:
        self._spec = spec
        self._compile = bool(spec.options.get("compile"))

    def prepare(self) -> None:
        if self._compile and not any(shutil.which(c) for c in ("c++", "g++", "clang++", "cl")):
            raise RuntimeError("torch.compile needs a C++ compiler; none is on the PATH")
        import torch

        import cmexport.checkpoints
        import cmexport.sampling.samplers  # noqa: F401

        self._torch: Any = torch
        torch.set_num_threads(self._spec.threads)
        torch.set_num_interop_threads(1)

    def load(self) -> None:
        from cmexport.checkpoints import load_checkpoint
        from cmexport.model import SampleRequest
        from cmexport.sampling.methods import resolve

        model = load_checkpoint(Path(self._spec.path), self._spec.overrides)
        request = SampleRequest(batch=self._spec.shape[0])
        self._sampler: Any = resolve(model, request).module()
        noise, labels = inputs_for(self._spec)
        self._inputs: dict[str, Any] = {"noise": self._torch.from_numpy(noise)}
        if labels is not None:
            self._inputs["label"] = self._torch.from_numpy(labels)
        if self._compile:
            self._sampler = self._torch.compile(self._sampler)
            self.run()

    def run(self) -> None:
        with self._torch.inference_mode():
            self._result = self._sampler(**self._inputs)

    def picture(self) -> Picture:
        self.run()
        image: Picture = self._result.numpy()
        return image

    def arithmetic(self) -> str:
        return "fp32"
