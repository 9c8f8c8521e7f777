"""The scripts of examples/, run on a tiny checkpoint, against PyTorch's pictures of the same noise."""

from __future__ import annotations

import ast
import runpy
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.networks import tiny_config

import cmexport
from cmexport.networks.adm_unet import AdmUnet
from cmexport.sampling.methods import resolve
from cmexport.sampling.reference import TorchRunner
from cmexport.verification import VerifyOptions

MODEL = "tiny.pt"
EXAMPLES = Path(__file__).parents[1] / "examples"
pytestmark = pytest.mark.filterwarnings("ignore::cmexport.GuessWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a checkpoint whose constants are stated beside it, and the artefact of `export_and_draw.py`."""
    folder = tmp_path_factory.mktemp("examples")
    # One level and no attention: each export takes a second, with `tiny_config()` as it is five.
    config = replace(tiny_config(), channel_mult=(1,), attention_downsampling=())
    torch.manual_seed(0)
    state = AdmUnet(config).state_dict()
    torch.save({k: v + 0.05 * torch.randn(v.shape) for k, v in state.items()}, folder / MODEL)
    (folder / "tiny.toml").write_text("[network]\nimage_size = 8\n")
    run(folder, "export_and_draw.py", MODEL)
    return folder


def run(folder, script, argument):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", [script, argument])
        # Where a script leaves it to us, 8 pictures are verified instead of 64.
        patch.setattr("cmexport.api.VerifyOptions", partial(VerifyOptions, pictures=8))
        runpy.run_path(str(EXAMPLES / script), run_name="__main__")


def row(folder, name):
    return np.asarray(Image.open(folder / name)).astype(int)


def expected(folder, inputs, **asked):
    """PyTorch's pictures in a row, as bytes."""
    sampler = resolve(cmexport.load(folder / MODEL), cmexport.SampleRequest(**asked))
    with TorchRunner(sampler) as runner:
        (images,) = runner(inputs).values()
    return np.concatenate(images.transpose(0, 2, 3, 1), axis=1) * 127.5 + 127.5


def test_export_and_draw(folder):
    drawn = row(folder, "cars.png")
    assert np.array_equal(
        drawn, drawn_again(cmexport.open(folder / "out" / "tiny-onnx-fp16").sample(0, count=4, label=1))
    )


def drawn_again(images):
    return np.round(np.concatenate(images.transpose(0, 2, 3, 1), axis=1) * 127.5 + 127.5)


def test_onnxruntime_only(folder):
    run(folder, "onnxruntime_only.py", "out/tiny-onnx-fp16/model.onnx")
    random = np.random.default_rng(0)
    noise = np.concatenate([random.standard_normal((1, 3, 8, 8), dtype=np.float32) for _ in range(3)])
    reference = expected(folder, {"noise": noise, "label": np.arange(3)}, sigmas=(80.0,), batch=3)
    assert np.abs(row(folder, "classes.png") - reference).max() < 1.5
    imports = [
        n for n in ast.walk(ast.parse((EXAMPLES / "onnxruntime_only.py").read_text())) if isinstance(n, ast.Import)
    ]
    assert {alias.name for node in imports for alias in node.names} == {"sys", "numpy", "onnxruntime"}


def test_two_steps(folder):
    run(folder, "two_steps.py", MODEL)
    random = np.random.default_rng(0)
    shapes = {"noise": (4, 3, 8, 8), "renoise": (1, 4, 3, 8, 8)}
    inputs = {name: random.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}
    sigmas = cmexport.open(folder / "out-two-steps" / "tiny-onnx-fp32").manifest.sampling.sigmas
    reference = expected(folder, inputs, sigmas=sigmas, batch=4, label=1)
    assert np.abs(row(folder, "two_steps.png") - reference).max() < 1.01


def test_inpaint(folder):
    run(folder, "inpaint.py", MODEL)
    hole, *painted = np.split(row(folder, "painted.png"), 4, axis=1)
    kept = np.ones((8, 8), dtype=bool)
    kept[2:6, 2:6] = False
    assert set(hole[~kept].ravel()) == {128}
    for picture in painted:
        assert np.array_equal(picture[kept], hole[kept])
        assert picture[~kept].std() > 1


def test_every_example_is_run_here():
    text = Path(__file__).read_text()
    assert all(f'"{script.name}"' in text for script in EXAMPLES.glob("*.py"))
