"""OpenVINO's own runtime on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.harness.engines.base import NumpyLoop, Picture, inputs_for
from benchmarks.harness.specs import EngineSpec

_NAMES = {"f32": "fp32", "bf16": "bf16", "f16": "fp16"}


class OpenVino:
    """A compiled ONNX file; `options["precision"]` ("f32", "bf16") is a wish that the processor may not grant."""

    def __init__(self, spec: EngineSpec) -> None:
        self._spec = spec
        self._loop = None if spec.host_loop is None else NumpyLoop(spec.host_loop)

    def prepare(self) -> None:
        import openvino

        self._core: Any = openvino.Core()
        wanted = self._spec.options["precision"].upper()
        able = self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if wanted != "F32" and wanted not in able:
            raise RuntimeError(f"this processor has no {wanted.lower()} arithmetic ({', '.join(able)})")

    def load(self) -> None:
        settings = {
            "INFERENCE_PRECISION_HINT": self._spec.options["precision"],
            "INFERENCE_NUM_THREADS": self._spec.threads,
            "PERFORMANCE_HINT": "LATENCY",
        }
        self._compiled: Any = self._core.compile_model(self._spec.path, "CPU", settings)
        self._request: Any = self._compiled.create_infer_request()
        self._noise, self._labels = inputs_for(self._spec)
        self._fixed: dict[Any, Any] = {}
        inputs = self._compiled.inputs
        if self._spec.host_loop is not None:
            c_noise = np.full(list(inputs[1].get_shape()), self._spec.host_loop.c_noise)
            self._fixed[1] = c_noise.astype(np.float64 if inputs[1].element_type.size == 8 else np.float32)
            if len(inputs) > 2:
                self._fixed[2] = self._labels
        elif self._labels is not None and len(inputs) > 1:
            self._fixed["label"] = self._labels

    def run(self) -> None:
        self._result = self._evaluate()

    def _evaluate(self) -> Picture:
        if self._loop is None:
            image: Picture = self._request.infer({"noise": self._noise, **self._fixed})[0]
            return image
        x, scaled = self._loop.scale(self._noise)
        return self._loop.combine(x, self._request.infer({0: scaled, **self._fixed})[0])

    def picture(self) -> Picture:
        return np.array(self._evaluate())

    def arithmetic(self) -> str:
        hint = self._compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        return _NAMES.get(hint, hint)
