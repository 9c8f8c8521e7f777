"""Who judges: a ruler with its classifier, the user's code with or without classes, Inception where it is at hand."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest
import torch

from cmexport.errors import BackendError, CheckpointError
from cmexport.quality.inception import WEIGHTS
from cmexport.quality.jury import load_jury


def test_a_ruler_brings_its_classifier_and_its_real_pictures(ruler_file):
    state = torch.load(ruler_file, weights_only=True)
    jury = load_jury(str(ruler_file))
    x = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)).numpy() * 2 - 1
    features, scores = jury.judge(x)
    assert features.shape == (4, 256)
    assert features.dtype == scores.dtype == np.float32
    expected = features.astype(np.float64) @ state["fc.weight"].double().numpy().T + state["fc.bias"].double().numpy()
    np.testing.assert_allclose(scores, expected, atol=1e-4)
    assert np.array_equal(jury.real.mean, state["_mu"].numpy())


def test_own_code_may_know_classes_or_not_and_real_pictures_or_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jury_of_mine.py").write_text(
        "def plain(x):\n    return x.flatten(1)[:, :2]\n"
        "def knowing(x):\n    return x.flatten(1)[:, :2]\n"
        "knowing.classify = lambda f: -f\n"
        "def faulty(x):\n    return x\n"
        "faulty.classify = 3\n"
    )
    plain = load_jury("jury_of_mine:plain")
    assert plain.real is None
    assert plain.classify is None
    x = np.random.default_rng(0).standard_normal((3, 1, 2, 2)).astype(np.float32)
    assert plain.judge(x)[1] is None
    features, scores = load_jury("jury_of_mine:knowing").judge(x)
    assert np.array_equal(scores, -features)
    with pytest.raises(CheckpointError, match="classify"):
        load_jury("jury_of_mine:faulty")
    # The covariance is `cov` here and in the ruler's file, `sigma` in pytorch-fid's.
    for name in ("cov", "sigma"):
        np.savez(tmp_path / f"{name}.npz", mu=np.ones(2), **{name: 2 * np.eye(2)})
        assert load_jury("jury_of_mine:plain", f"{name}.npz").real.covariance[1, 1] == 2.0


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty cache of torch's, and a torchmetrics that notes what it is given."""
    given = {}

    class Network(torch.nn.Module):
        def __init__(self, name, features, path):
            super().__init__()
            given.update(name=name, features=features, path=path)
            torch.load(path, weights_only=True)

        def forward(self, x):
            assert x.dtype == torch.uint8
            given["levels"] = x.unique().tolist()
            return x.float().mean(dim=(2, 3))

    fid = types.ModuleType("torchmetrics.image.fid")
    fid.NoTrainInceptionV3 = Network
    for name, module in (("torchmetrics", types.ModuleType("torchmetrics")), ("torchmetrics.image.fid", fid)):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "torchmetrics.image", types.ModuleType("torchmetrics.image"))
    monkeypatch.setitem(sys.modules, "torch_fidelity", types.ModuleType("torch_fidelity"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    return given, tmp_path / "checkpoints" / WEIGHTS


def test_inception_gets_bytes_and_the_weights_at_hand(hub):
    given, path = hub
    path.parent.mkdir()
    torch.save({}, path)
    jury = load_jury("inception")
    features, scores = jury.judge(np.array([-1.2, -1.0, 0.0, 1.0, 1.5], np.float32).reshape(1, 1, 1, 5))
    assert given == {
        "name": "inception-v3-compat",
        "features": ["2048"],
        "path": str(path),
        "levels": [0, 128, 255],
    }
    assert features.tolist() == [[pytest.approx((0 + 0 + 128 + 255 + 255) / 5)]]
    assert scores is None
    assert jury.real is None


def test_what_inception_lacks_is_named(hub, monkeypatch):
    _, path = hub
    with pytest.raises(BackendError, match=str(path)) as caught:
        load_jury("inception")
    assert "https://" in str(caught.value)
    path.parent.mkdir()
    path.write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match=WEIGHTS):
        load_jury("inception")
    for missing in ("torch_fidelity", "torchmetrics.image.fid"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, missing, None)
            with pytest.raises(BackendError, match="pip install 'torchmetrics"):
                load_jury("inception")


def test_libraries_that_do_not_fit_each_other_are_one_sentence(hub, tmp_path, monkeypatch):
    # What torchvision built for another torch says when torch-fidelity imports it.
    (tmp_path / "torch_fidelity.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.delitem(sys.modules, "torch_fidelity")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(BackendError, match="torchvision::nms"):
        load_jury("inception")
