"""Pictures that are no squares, from the command line to the file of every target."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from support.networks import tiny_config

from cmexport.networks.adm_unet import AdmUnet

HEADS = ("--set", "num_head_channels=32")


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(folder / "photo.png")
    mask = np.full((40, 60), 255, dtype=np.uint8)
    mask[10:30, 20:50] = 0
    Image.fromarray(mask).save(folder / "mask.png")
    return folder


@pytest.fixture(scope="module")
def tasks(tiny_checkpoint, cmexport, tmp_path_factory):
    out = tmp_path_factory.mktemp("rectangles")
    names = "generate,inpaint,colorize,superres,stroke"
    outcome = cmexport(
        *("onnx", tiny_checkpoint, "--size", "8x16", *HEADS, "-o", out, "--seeds", 8, "--steps", 1),
        *("--task", names, "--patch", 4, "--rewrites", "fold_constants"),
    )
    assert outcome.code == 0, outcome.stderr
    return out / "tiny-onnx-fp32"


def test_every_task_has_the_rectangle_at_its_border(tasks, tiny_checkpoint, cmexport, photo, tmp_path):
    manifest = json.loads((tasks / "manifest.json").read_text())
    assert all(run["parity"]["passed"] for run in manifest["functions"])
    for graph in manifest["graphs"]:
        border = graph["signature"]
        shapes = {t["name"]: t["shape"] for t in [*border["inputs"], border["output"]]}
        assert shapes["noise"] == [1, 3, 8, 16]
        assert shapes.get("mask", [1, 1, 8, 16]) == [1, 1, 8, 16]
        assert shapes.get("edited", shapes["image"]) == [1, 3, 8, 16]
    image, mask = photo / "photo.png", photo / "mask.png"
    given = ("--image", image, "--mask", mask, "--task", "inpaint", "--label", 1, "-o", tmp_path / "row.png")
    drawn = [
        cmexport("sample", *subject, *given, "--save", tmp_path / f"{name}.npz")
        for name, subject in (
            ("model", (tiny_checkpoint, "--size", "8x16", *HEADS, "--steps", 1)),
            ("artefact", (tasks,)),
        )
    ]
    for outcome in drawn:
        assert outcome.code == 0, outcome.stderr
        assert "took the middle 60 x 30 of 60 x 40 and resized" in outcome.stderr
    ours, theirs = (np.load(tmp_path / f"{name}.npz")["image"] for name in ("model", "artefact"))
    assert ours.shape == (1, 3, 8, 16)
    assert abs(ours - theirs).max() < 1e-4
    # Kept pixels are the photo's, by Pillow alone.
    cut = Image.open(image).crop((0, 5, 60, 35)).resize((16, 8), Image.Resampling.LANCZOS)
    pixels = np.asarray(cut, dtype=np.float32).transpose(2, 0, 1) / 127.5 - 1
    kept = np.asarray(Image.open(mask).crop((0, 5, 60, 35)).resize((16, 8), Image.Resampling.NEAREST)) >= 128
    assert 0 < kept.sum() < kept.size
    assert abs(theirs[0] - pixels)[:, kept].max() < 1e-6
    with Image.open(tasks / "preview.png") as preview:
        assert preview.width > preview.height


@pytest.mark.parametrize(
    "arguments",
    [
        ("coreml", "--fp16"),
        ("coreml", "--output", "image"),
        ("tensorrt", "--fp16"),
        ("onnx", "--output", "uint8"),
        ("onnx", "--sampler", "heun", "--steps", "2"),
    ],
    ids=lambda a: "-".join(a).replace("--", ""),
)
def test_every_target_takes_a_rectangle(arguments, tiny_checkpoint, cmexport, tmp_path):
    verb, *options = arguments
    outcome = cmexport(
        *(verb, tiny_checkpoint, *options, "--set", "image_size=16x8", *HEADS, "-o", tmp_path, "--seeds", 8)
    )
    assert outcome.code == 0, outcome.stderr
    (path,) = tmp_path.glob("*/manifest.json")
    manifest = json.loads(path.read_text())
    assert manifest["parity"]["passed"]
    border = manifest["graphs"][0]["signature"]
    assert border["inputs"][0]["shape"] == [1, 3, 16, 8]
    bytes_out = border["output"]["dtype"] == "uint8"
    assert border["output"]["shape"] == ([1, 16, 8, 3] if bytes_out else [1, 3, 16, 8])
    setting = next(s for s in manifest["checkpoint"]["settings"] if s["name"] == "image_size")
    assert setting["value"] == [16, 8]
    assert cmexport("verify", path.parent, "--seeds", 8).code == 0


def test_sizes_that_do_not_fit_are_the_checkpoints_fault(tiny_checkpoint, cmexport, tmp_path):
    halving = tmp_path / "halving.pt"
    torch.save(AdmUnet(tiny_config()).state_dict(), halving)
    for size in ("--size", "9x16"), ("--set", "image_size=9"):
        outcome = cmexport("onnx", halving, *size, *HEADS, "-o", tmp_path)
        assert outcome.code == 3
        assert "multiples of 2" in outcome.stderr
    for size in ("8by16", "8x8x8", "0x8"):
        assert cmexport("onnx", tiny_checkpoint, "--size", size, *HEADS, "-o", tmp_path).code == 2
    twice = cmexport("onnx", tiny_checkpoint, "--size", "8x16", "--set", "image_size=8", *HEADS, "-o", tmp_path)
    assert twice.code == 2


def test_a_patch_divides_both_sides(tiny_checkpoint, cmexport, tmp_path):
    options = (tiny_checkpoint, "--size", "8x12", *HEADS, "--task", "superres", "--save", tmp_path / "y.npz")
    outcome = cmexport("sample", *options, "--patch", 8)
    assert outcome.code == 2
    assert "8 and 12" in outcome.stderr
