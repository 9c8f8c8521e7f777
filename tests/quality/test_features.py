"""Judges: the ruler's file format and the user's own code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from cmexport.errors import CheckpointError, UsageError
from cmexport.quality.features import load_judge


def written_down(state, x):
    """The ruler from its description, one operation after the other, in float64."""
    s = {k: v.double() for k, v in state.items()}

    def block(name, x, pool=False):
        mean, var, scale, shift = (
            s[f"{name}.1.{k}"][:, None, None] for k in ("running_mean", "running_var", "weight", "bias")
        )
        x = F.conv2d(x, s[f"{name}.0.weight"], padding=1)
        x = ((x - mean) / torch.sqrt(var + 1e-5) * scale + shift).clamp(min=0.0)
        return F.max_pool2d(x, 2) if pool else x

    x = ((x.double() + 1.0) * 127.5).round().clamp(0, 255) / 127.5 - 1.0
    x = block("l1", block("prep", x), pool=True)
    x = x + block("r1.1", block("r1.0", x))
    x = block("l3", block("l2", x, pool=True), pool=True)
    x = x + block("r3.1", block("r3.0", x))
    return x.mean(dim=(2, 3))


def test_the_rulers_features_are_as_described(ruler_file):
    state = torch.load(ruler_file, weights_only=True)
    judge = load_judge(str(ruler_file))
    x = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2.4 - 1.2
    torch.testing.assert_close(judge.features(x).double(), written_down(state, x), rtol=0, atol=1e-5)
    assert np.array_equal(judge.reference.mean, state["_mu"].numpy())


def test_own_code_with_and_without_statistics(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "judges_of_mine.py").write_text(
        "def plain(x):\n    return x.flatten(1)[:, :2]\n"
        "def known(x):\n    return x.flatten(1)[:, :2]\n"
        "known.mu, known.cov = [0.0, 1.0], [[1.0, 0.0], [0.0, 1.0]]\n"
        "value = 3\n"
    )
    assert load_judge("judges_of_mine:known").reference.mean.tolist() == [0.0, 1.0]
    with pytest.raises(UsageError, match="--statistics"):
        load_judge("judges_of_mine:plain")
    np.savez(tmp_path / "s.npz", mu=np.ones(2), cov=np.eye(2))
    judge = load_judge("judges_of_mine:plain", str(tmp_path / "s.npz"))
    assert judge.reference.mean.tolist() == [1.0, 1.0]
    assert judge.features(torch.zeros(4, 3, 2, 2)).shape == (4, 2)
    for text in ("judges_of_mine:value", "judges_of_mine:none", "no_such_module_anywhere:f"):
        with pytest.raises(CheckpointError, match=text.split(":")[0]):
            load_judge(text)


@pytest.mark.parametrize("kind", ["missing", "text", "other weights", "faulty statistics"])
def test_what_is_no_ruler_is_refused(tmp_path, ruler_file, kind):
    path = tmp_path / "bad.pt"
    state = torch.load(ruler_file, weights_only=True)
    if kind == "text":
        path.write_text("hello")
    elif kind == "other weights":
        torch.save({"fc.bias": torch.zeros(3)}, path)
    elif kind == "faulty statistics":
        torch.save({**state, "_cov": torch.zeros(3, 3)}, path)
    with pytest.raises(CheckpointError, match=r"bad\.pt"):
        load_judge(str(path))


@pytest.mark.parametrize("content", [{"mu": np.ones(2)}, {"mu": np.ones(2), "cov": np.ones((2, 3))}])
def test_faulty_statistics_are_refused(tmp_path, ruler_file, content):
    np.savez(tmp_path / "s.npz", **content)
    with pytest.raises(CheckpointError, match=r"s\.npz"):
        load_judge(str(ruler_file), str(tmp_path / "s.npz"))
