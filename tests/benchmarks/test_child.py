"""The child's side of the conversation, and engines that can't start."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.harness.child import WARM_UP, serve
from benchmarks.harness.engines.base import NumpyLoop, inputs_for
from benchmarks.harness.process import EngineFailedError, EngineProcess, child_environment
from benchmarks.harness.specs import EngineSpec, HostLoop

SPEC = EngineSpec("broken", "onnxruntime", "absent.onnx", (2, 3, 4, 4), 3, 1, host_loop=HostLoop(80, 0, 1, 1, 5, True))


class Fake:
    def __init__(self):
        self.calls = []

    def prepare(self):
        self.calls.append("prepare")

    def load(self):
        self.calls.append("load")

    def run(self):
        self.calls.append("run")

    def picture(self):
        return np.zeros((1, 3, 4, 4), np.float32)

    def arithmetic(self):
        return "fp32"


def test_libraries_come_before_the_load_and_warm_up_is_not_timed(tmp_path):
    engine = Fake()
    commands = [{"do": "load"}, {"do": "run", "runs": 5}, {"do": "picture", "path": str(tmp_path / "p.npy")}]
    replies = list(serve(engine, iter([*commands, {"do": "memory"}, {"do": "dance"}])))
    assert engine.calls == ["prepare", "load"] + ["run"] * (WARM_UP + 5)
    assert len(replies[1]["seconds"]) == 5
    assert replies[2] == {"arithmetic": "fp32"}
    assert np.load(tmp_path / "p.npy").shape == (1, 3, 4, 4)
    assert replies[3]["bytes"] >= 0
    assert "dance" in replies[4]["error"]


def test_a_spec_survives_the_command_line():
    assert EngineSpec.from_json(SPEC.to_json()) == SPEC


def test_every_engine_gets_the_same_inputs():
    noise, labels = inputs_for(SPEC)
    again, _ = inputs_for(SPEC)
    assert noise.dtype == np.float32
    assert np.array_equal(noise, again)
    assert labels.tolist() == [0, 1]


def test_the_host_loop_is_the_sampling_step():
    loop = NumpyLoop(HostLoop(sigma=2.0, c_skip=0.25, c_out=0.5, c_in=0.125, c_noise=0, clamp=True))
    x, scaled = loop.scale(np.float32([1.0, 4.0]))
    assert x.tolist() == [2.0, 8.0]
    assert scaled.tolist() == [0.25, 1.0]
    assert loop.combine(x, np.float32([0.5, 4.0])).tolist() == [0.75, 1.0]


def test_an_engine_that_can_not_load_gives_a_reason():
    with pytest.raises(EngineFailedError, match=r"absent\.onnx"):
        EngineProcess(SPEC, child_environment(1))
