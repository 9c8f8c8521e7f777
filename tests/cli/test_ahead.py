"""Reference pictures drawn in a fork while the graph is translated: the same verdict, the same file."""

from __future__ import annotations

import onnx
import pytest
from support.networks import SETTINGS

from cmexport import verification
from cmexport.parity.ahead import Ahead, can_fork

pytestmark = pytest.mark.skipif(not can_fork(), reason="forks compute on Linux only")


@pytest.fixture
def forks(monkeypatch):
    """Every fork that an export begins."""
    begun = []

    class Counted(Ahead):
        def __init__(self, work):
            super().__init__(work)
            begun.append(self)

    monkeypatch.setattr(verification, "Ahead", Counted)
    return begun


@pytest.mark.parametrize("steps", [("--steps", 2), ("--sampler", "heun", "--steps", 3)])
def test_the_same_file_and_verdict_with_and_without(steps, tiny_checkpoint, cmexport, tmp_path, forks):
    parities, graphs = [], []
    for threads in (1, 2):
        outcome = cmexport(
            *("onnx", tiny_checkpoint, *SETTINGS, *steps, "--threads", threads, "--seeds", 8, "--json"),
            *("-o", tmp_path / str(threads)),
        )
        assert outcome.code == 0, outcome.stderr
        (path,) = (tmp_path / str(threads)).glob("*/model.onnx")
        graphs.append(onnx.load(path).graph)
        parities.append(outcome.json["manifest"]["parity"])
    assert len(forks) == 1  # with two threads
    assert graphs[0] == graphs[1]
    alone, beside = parities
    assert beside["exact"]["pictures"] == alone["exact"]["pictures"] == 4
    for ours, theirs in zip(alone["rungs"], beside["rungs"], strict=True):
        assert theirs["difference"]["mean_db"] == pytest.approx(ours["difference"]["mean_db"], abs=2)


def test_a_fork_ends_with_an_export_that_fails(tiny_checkpoint, cmexport, tmp_path, forks, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("cmexport.exporting.apply_rewrites", stop)
    outcome = cmexport("onnx", tiny_checkpoint, *SETTINGS, "--threads", 2, "-o", tmp_path)
    assert outcome.code == 130
    (fork,) = forks
    assert not fork._process.is_alive()
    assert list(tmp_path.iterdir()) == []
