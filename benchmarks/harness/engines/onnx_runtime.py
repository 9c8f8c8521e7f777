"""ONNX Runtime on the CPU, with its default options: full optimization, spinning threads."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.harness.engines.base import NumpyLoop, Picture, inputs_for
from benchmarks.harness.specs import EngineSpec

_TYPES = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(int64)": np.int64}


class OnnxRuntime:
    """A session on a whole sampler (inputs by name), or on a bare network inside a numpy loop (inputs by position)."""

    def __init__(self, spec: EngineSpec) -> None:
        self._spec = spec
        self._loop = None if spec.host_loop is None else NumpyLoop(spec.host_loop)

    def prepare(self) -> None:
        import onnxruntime

        self._ort: Any = onnxruntime

    def load(self) -> None:
        options = self._ort.SessionOptions()
        options.intra_op_num_threads = self._spec.threads
        options.log_severity_level = 3
        self._session: Any = self._ort.InferenceSession(self._spec.path, options, providers=["CPUExecutionProvider"])
        self._noise, self._labels = inputs_for(self._spec)
        self._inputs = self._session.get_inputs()
        self._network_inputs: dict[str, Any] = {}
        if self._spec.host_loop is not None:
            time = self._inputs[1]
            shape = [d if isinstance(d, int) else 1 for d in time.shape]
            self._network_inputs[time.name] = np.full(shape, self._spec.host_loop.c_noise, _TYPES[time.type])
            if len(self._inputs) > 2:
                self._network_inputs[self._inputs[2].name] = self._labels
        else:
            given = {"noise": self._noise, "label": self._labels, **self._stated()}
            self._network_inputs = {i.name: given[i.name] for i in self._inputs}

    def _stated(self) -> dict[str, Any]:
        """Inputs of other people's files: one number for all pictures (`numbers`), or scaled noise (`scaled`)."""
        count = len(self._noise)
        numbers = self._spec.options.get("numbers", {})
        scaled = self._spec.options.get("scaled", {})
        return {
            **{name: np.full(count, value, np.float32) for name, value in numbers.items()},
            **{name: self._noise * np.float32(factor) for name, factor in scaled.items()},
        }

    def run(self) -> None:
        self._result = self._evaluate()

    def _evaluate(self) -> Picture:
        if self._loop is None:
            image: Picture = self._session.run(None, self._network_inputs)[0]
            return image
        x, scaled = self._loop.scale(self._noise)
        output = self._session.run(None, {self._inputs[0].name: scaled, **self._network_inputs})[0]
        return self._loop.combine(x, output)

    def picture(self) -> Picture:
        return self._evaluate()

    def arithmetic(self) -> str:
        return self._spec.arithmetic
