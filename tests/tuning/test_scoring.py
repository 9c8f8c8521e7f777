"""Scores do not depend on who computed them, and are what a plain loop over all pictures gives."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest
import torch

from cmexport.checkpoints import load_checkpoint
from cmexport.errors import BackendError
from cmexport.parity.inputs import draw_inputs
from cmexport.quality.frechet import Gaussian, frechet_distance
from cmexport.sampling.denoiser import denoise
from cmexport.tuning import scoring
from cmexport.tuning.scoring import Setup, Workers, score_schedules

from cmexport.signature import Signature, known  # isort: skip


@pytest.fixture
def setup(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(scoring, "PART", 20)
    (tmp_path / "means_of_colours.py").write_text(
        "import numpy as np\n"
        "def features(x):\n    return x.mean(dim=(2, 3))\n"
        "features.mu, features.cov = np.zeros(3), np.eye(3)\n"
    )
    sys.modules.pop("means_of_colours", None)
    overrides = (("image_size", "8"), ("num_head_channels", "32"))
    return Setup(str(tiny), overrides, "means_of_colours:features", None, 50, 7)


SCHEDULES = [(80.0,), (80.0, 1.4)]


def plain_loop(setup, sigmas):
    model = load_checkpoint(setup.checkpoint, dict(setup.overrides))
    inputs = known.noise((1, 3, 8, 8)), known.renoise(1, (1, 3, 8, 8))
    border = Signature(inputs, known.finished((1, 3, 8, 8)))
    features = []
    for index, run in enumerate(draw_inputs(border, setup.pictures, setup.seed)):
        label = torch.tensor([index % 3])
        x = denoise(model, sigmas[0] * torch.from_numpy(run["noise"]), sigmas[0], label=label).clamp(-1, 1)
        for s in sigmas[1:]:
            x = x + np.sqrt(s**2 - 0.002**2) * torch.from_numpy(run["renoise"][0])
            x = denoise(model, x.float(), s, label=label).clamp(-1, 1)
        features.append(x.mean(dim=(2, 3))[0].double().numpy())
    features = np.stack(features)
    return frechet_distance(Gaussian(features.mean(0), np.cov(features.T)), Gaussian(np.zeros(3), np.eye(3)))


def test_scores_are_those_of_a_plain_loop(setup):
    told = []
    got = score_schedules(setup, SCHEDULES, Workers(), lambda done, total: told.append((done, total)))
    assert got == pytest.approx([plain_loop(setup, s) for s in SCHEDULES], rel=1e-5)
    assert told == [(i + 1, 6) for i in range(6)]
    assert got[0] != got[1]


def test_a_clusters_backend_is_joblibs_own(setup, monkeypatch):
    import joblib
    from joblib._parallel_backends import ThreadingBackend

    started = []
    ray, util, registry = types.ModuleType("ray"), types.ModuleType("ray.util"), types.ModuleType("ray.util.joblib")
    ray.init = lambda **options: started.append(options)
    registry.register_ray = lambda: joblib.register_parallel_backend("ray", ThreadingBackend)
    for name, module in (("ray", ray), ("ray.util", util), ("ray.util.joblib", registry)):
        monkeypatch.setitem(sys.modules, name, module)
    got = score_schedules(setup, SCHEDULES, Workers(2, "ray", "host:1"))
    assert started == [{"address": "host:1", "ignore_reinit_error": True}]
    assert got == pytest.approx(score_schedules(setup, SCHEDULES, Workers()), rel=1e-6)


@pytest.mark.parametrize(("cluster", "package"), [("ray", "ray"), ("dask", "dask")])
def test_a_missing_cluster_library_is_named(setup, monkeypatch, cluster, package):
    for name in ("ray", "ray.util.joblib", "distributed"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(BackendError, match=f"pip install .*{package}"):
        score_schedules(setup, SCHEDULES, Workers(2, cluster))


def test_joblib_is_an_extra(setup, monkeypatch):
    monkeypatch.setitem(sys.modules, "joblib", None)
    with pytest.raises(BackendError, match=r"cmexport\[tune\]"):
        score_schedules(setup, SCHEDULES, Workers())
