"""The Python interface against PyTorch, diffusers' formula of PSNR, and the command line's own files."""

from __future__ import annotations

import json
import math
import re
import shutil
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from support.networks import noisy_checkpoint, tiny_config

import cmexport
from cmexport.networks.adm_unet import AdmUnet
from cmexport.parity.metrics import as_bytes
from cmexport.sampling.methods import resolve
from cmexport.sampling.reference import TorchRunner
from cmexport.verification import VerifyOptions

STATED = {"image_size": 8, "num_head_channels": 32}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return noisy_checkpoint(tmp_path_factory.mktemp("api") / "cm-v1.0.pt")


@pytest.fixture(scope="module")
def model(checkpoint):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", cmexport.GuessWarning)
        return cmexport.load(checkpoint, STATED)


@pytest.fixture(scope="module")
def artifact(model, tmp_path_factory):
    return cmexport.export(model, "onnx", steps=2, seeds=8, out=tmp_path_factory.mktemp("out"))


def test_the_module_shows_what_there_is():
    assert {"load", "export", "open", "Artifact", "ParityError"} <= set(dir(cmexport))
    assert all(getattr(cmexport, name) is not None for name in dir(cmexport))
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        _ = cmexport.lod


def test_guesses_are_warned_of_and_refused_if_asked(checkpoint):
    with pytest.warns(cmexport.GuessWarning) as heard:
        guessed = cmexport.load(checkpoint, STATED)
    names = [setting.name for setting in guessed.assumed]
    assert "levels" in names
    for name, warning in zip(names, heard, strict=True):
        assert str(warning.message).startswith(f"assumed {name}=")
        assert str(warning.message).endswith(f"state it: load(..., {name}=...)")
        assert warning.filename == __file__
    with pytest.raises(cmexport.CheckpointError, match=r"guessed: .*levels=40") as refused:
        cmexport.load(checkpoint, STATED, strict=True)
    assert "--" not in str(refused.value)
    stated = {name: next(s.text for s in guessed.assumed if s.name == name) for name in names}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cmexport.load(checkpoint, STATED, strict=True, **stated).assumed == ()


def test_settings_may_be_values_or_arguments(checkpoint):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = cmexport.load(checkpoint, STATED, sigma_data=0.25)
    assert loaded.noise.sigma_data == 0.25
    with pytest.raises(cmexport.UsageError, match="sigma_dat"):
        cmexport.load(checkpoint, STATED, sigma_dat=0.5)


def test_a_network_in_memory(model):
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = cmexport.load(AdmUnet(tiny_config()), image_size=8, num_classes=3)
    assert wrapped.classes == model.classes == 3
    assert wrapped.space.height == wrapped.space.width == 8


def test_samples_are_pytorchs(model, artifact):
    images = artifact.sample(seed=5, label=2, count=3)
    sampler = resolve(model, cmexport.SampleRequest(sigmas=artifact.manifest.sampling.sigmas))
    for index, image in enumerate(images):
        inputs = {**sampler.signature.draw(0, 5 + index), "label": np.array([2])}
        with TorchRunner(sampler) as runner:
            (expected,) = runner(inputs).values()
        assert np.abs(image - expected[0]).max() < 1e-4
    assert images.shape == (3, 3, 8, 8)
    assert images.dtype == np.float32
    assert not np.array_equal(images[0], artifact.sample(seed=5, label=1)[0])


def test_opened_again_it_is_the_same(artifact):
    for path in (artifact.folder, artifact.folder / "model.onnx", str(artifact.folder)):
        again = cmexport.open(path)
        assert again == artifact
        assert np.array_equal(again.sample(seed=1, label=0), artifact.sample(seed=1, label=0))
    assert json.loads((artifact.folder / "manifest.json").read_text())["name"] == artifact.manifest.name


def test_verified_again(artifact, checkpoint):
    found = artifact.verify(checkpoint, seeds=8, **STATED)
    assert found.passed
    assert found.mean_db >= found.worst_db > 100
    difference = found.report.rungs[-1].difference
    assert (found.mean_db, found.worst_db) == (difference.mean_db, difference.min_db)
    assert not math.isnan(found.worst_db)


def test_without_its_checkpoint_the_golden_pictures_are_left_and_that_is_said_to_the_caller(artifact, tmp_path):
    shutil.copytree(artifact.folder, tmp_path / "moved")
    content = json.loads((tmp_path / "moved" / "manifest.json").read_text())
    content["checkpoint"]["path"] = str(tmp_path / "gone.pt")
    (tmp_path / "moved" / "manifest.json").write_text(json.dumps(content))
    with pytest.warns(UserWarning, match="compared with the pictures in golden/ only") as heard:
        found = cmexport.open(tmp_path / "moved").verify()
    assert (found.passed, found.report.pictures) == (True, 2)
    assert [warning.filename for warning in heard] == [__file__]


def test_a_missed_gate_is_raised_and_kept(model, tmp_path, monkeypatch):
    monkeypatch.setattr("cmexport.verification.gate_of", lambda precision, plan: 400.0)
    with pytest.raises(cmexport.ParityError, match="rejected"):
        cmexport.export(model, seeds=8, out=tmp_path)
    assert [folder.name for folder in tmp_path.iterdir()] == ["cm-v1.0-onnx-fp32.rejected"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"precision": "fp12"}, "precision='fp12': onnx has fp32"),
        ({"output": "png"}, "output='png'"),
        ({"steps": 2, "sigmas": [80.0]}, "steps and sigmas contradict"),
        ({"seeds": 3}, "seeds=3: at least 8"),
        ({"eb": "web"}, "onnx has no option eb; it has .*ep"),
        ({"target": "coreml", "ep": "web"}, "coreml has no option ep"),
        ({"task": "inpant"}, "inpant"),
        ({"target": "onyx"}, "onyx"),
    ],
)
def test_wrong_arguments(model, tmp_path, arguments, said):
    with pytest.raises(cmexport.UsageError, match=said):
        cmexport.export(model, out=tmp_path, **arguments)
    assert list(tmp_path.iterdir()) == []


def test_wrong_samples_and_folders(artifact, tmp_path):
    with pytest.raises(cmexport.UsageError, match="label=3"):
        artifact.sample(label=3)
    with pytest.raises(cmexport.UsageError, match="count"):
        artifact.sample(count=0)
    with pytest.raises(cmexport.CheckpointError, match="not an artefact"):
        cmexport.open(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(cmexport.CheckpointError):
        cmexport.open(tmp_path)


def test_the_documented_blocks_run(tmp_path, monkeypatch):
    text = (Path(__file__).parents[1] / "docs" / "python.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 5
    monkeypatch.chdir(tmp_path)
    # Where a block leaves it to us, 8 pictures are verified instead of 64.
    monkeypatch.setattr("cmexport.api.VerifyOptions", partial(VerifyOptions, pictures=8))
    names = {}
    for block in blocks:
        exec(compile(block, "docs/python.md", "exec"), names)
    assert names["images"].shape == (4, 3, 32, 32)
    assert names["found"].passed
    assert names["found"].worst_db > 72
    kept = names["mask"][0] == 1
    assert np.abs(names["painted"][0][:, kept] - names["images"][0][:, kept]).max() < 1e-5


def test_the_documented_errors_are_all_there_are():
    text = (Path(__file__).parents[1] / "docs" / "python.md").read_text()
    documented = dict(re.findall(r"\| `(\w+Error)` \((\d)\)", text))
    kinds = [c for c in cmexport.CmexportError.__subclasses__() if c.__module__ == "cmexport.errors"]
    assert documented == {c.__name__: str(c.exit_code) for c in kinds}


def test_a_kit_of_an_artefact(artifact, tmp_path):
    folder = artifact.kit("python", tmp_path)
    (golden,) = folder.rglob("generate-0.rgb")
    picture = as_bytes(artifact.sample(seed=0, label=0, noise="cmx1"))
    assert picture.tobytes() == golden.read_bytes()
    for wrong in (lambda: artifact.kit("toaster", tmp_path), lambda: artifact.sample(noise="pink")):
        with pytest.raises(cmexport.UsageError, match=r'^(platform="toaster"|noise="pink"): known are ') as refused:
            wrong()
        assert "--" not in str(refused.value)
