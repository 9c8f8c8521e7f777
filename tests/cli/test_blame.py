"""`cmexport verify --blame` and `cmexport coreml --keep-fp32`, on a network that half precision breaks."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from cmexport.graph.rewrites import HALF_REWRITES, REWRITES
from cmexport.networks.adm_unet import AdmUnet, AdmUnetConfig
from cmexport.targets.coreml.rewrites import OWN_REWRITES

pytest.importorskip("coremltools")

SETTINGS = (
    "--set",
    "image_size=8",
    "--set",
    "num_head_channels=32",
    "--set",
    "qkv_order=thirds",
    "--set",
    "levels=40",
    "--label",
    1,
    "--seeds",
    8,
)


# What these commands look for would not be there: the rewrite that scales it away is left out.
UNFITTED = ("--rewrites", ",".join(r.name for r in (*REWRITES, *OWN_REWRITES) if r not in HALF_REWRITES))


@pytest.fixture(scope="module")
def hot_checkpoint(tmp_path_factory):
    """A norm undoes what a convolution does in excess: PyTorch's pictures are good, half precision overflows."""
    torch.manual_seed(0)
    config = AdmUnetConfig(
        image_size=8,
        model_channels=32,
        channel_mult=(1,),
        num_res_blocks=1,
        attention_downsampling=(),
        num_classes=3,
        num_head_channels=32,
    )
    state = AdmUnet(config).state_dict()
    for name in ("weight", "bias"):
        state[f"input_blocks.1.0.in_layers.2.{name}"] *= 3e5
    path = tmp_path_factory.mktemp("hot") / "hot.pt"
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def rejected(hot_checkpoint, cmexport, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    outcome = cmexport("coreml", hot_checkpoint, *SETTINGS, *UNFITTED, "--fp16", "-o", out)
    assert outcome.code == 4
    assert "NaN or Inf numbers" in outcome.stderr
    return out / "hot-coreml-fp16.rejected"


def test_blame_names_what_overflows_and_what_to_do(rejected, cmexport):
    outcome = cmexport("verify", rejected, "--blame")
    assert outcome.code == 0, outcome.stderr
    assert "768 NaN or Inf numbers" in outcome.stdout
    assert "First out of its budget: conv2d_1 (conv), which overflows." in outcome.stdout
    assert "--keep-fp32 conv2d_1,instance_norm_1" in outcome.stdout


def test_blame_as_json_lists_every_operation(rejected, cmexport):
    facts = cmexport("verify", rejected, "--blame", "--seeds", 2, "--json").json["blame"]
    assert (facts["pictures"], facts["healthy"], facts["mean_db"]) == (2, False, None)
    assert facts["first_over_budget"] == "conv2d_1"
    assert facts["keep_fp32"] == ["conv2d_1", "instance_norm_1"]
    lost = [op for op in facts["operations"] if op["overflows_itself"]]
    assert [op["name"] for op in lost] == ["conv2d_1"]
    assert lost[0]["largest"] > 65504
    assert lost[0]["snr_db"] is None
    assert 0 < lost[0]["overflows"] <= lost[0]["elements"]
    assert [op["location"] for op in facts["operations"]] == list(range(len(facts["operations"])))


def test_auto_passes_the_gate_and_says_what_it_kept(hot_checkpoint, cmexport, tmp_path):
    asked = ("--fp16", "--keep-fp32", "auto", "--json", "-o", tmp_path)
    outcome = cmexport("coreml", hot_checkpoint, *SETTINGS, *UNFITTED, *asked)
    assert outcome.code == 0, outcome.stderr
    assert "kept in float32: conv2d_1, instance_norm_1 (conv2d_1 overflows" in outcome.stderr
    manifest = outcome.json["manifest"]
    assert manifest["parity"]["passed"]
    assert manifest["numerics"]["default"] == "float16"
    assert manifest["numerics"]["kept_float32"] == ["conv2d_1", "instance_norm_1"]
    assert "conv2d_1 overflows" in manifest["numerics"]["kept_float32_reason"]
    again = cmexport("verify", tmp_path / "hot-coreml-fp16", "--blame")
    assert "Nothing is worth keeping in float32." in again.stdout
    assert "nothing overflows" in again.stdout


def test_what_a_norm_takes_is_scaled_before_and_said(hot_checkpoint, cmexport, tmp_path):
    outcome = cmexport("coreml", hot_checkpoint, *SETTINGS, "--fp16", "--json", "-o", tmp_path)
    assert outcome.code == 0, outcome.stderr
    assert "half precision: network.input_blocks.1.0.in_layers.2 peaks at " in outcome.stderr
    manifest = outcome.json["manifest"]
    assert "scaled by 2^-" in manifest["numerics"]["half_ranges"]
    assert {r["name"]: r["applied"] for r in manifest["rewrites"]}["fit_half"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--keep-fp32", "auto"), "--keep-fp32: everything is float32"),
        (("--fp16", "--keep-fp32", "auto,conv2d"), "give auto, none, or names"),
        (("--fp16", "--keep-fp32", "a,,b"), "give auto, none, or names"),
        (("--fp16", "--keep-fp32", "conv2d_99"), "no operation has this name; similar: conv2d_9"),
    ],
)
def test_what_can_not_be_kept(hot_checkpoint, cmexport, tmp_path, arguments, said):
    outcome = cmexport("coreml", hot_checkpoint, *SETTINGS, *arguments, "-o", tmp_path / "out")
    assert outcome.code == 2
    assert said in outcome.stderr
    assert len(outcome.stderr.strip().splitlines()) <= 3
    assert not list(tmp_path.glob("out/*"))


def test_blame_is_for_core_ml_alone_and_by_itself(rejected, cmexport, tmp_path):
    manifest = json.loads((rejected / "manifest.json").read_text())
    shutil.copytree(rejected, tmp_path / "copy")
    (tmp_path / "copy" / "manifest.json").write_text(json.dumps({**manifest, "target": "onnx"}))
    onnx = cmexport("verify", tmp_path / "copy", "--blame")
    assert onnx.code == 2
    assert "looks into Core ML packages, and this artefact is onnx" in onnx.stderr
    both = cmexport("verify", rejected, "--blame", "--against", "x.pt")
    assert both.code == 2
    assert "--blame compares an artefact with itself" in both.stderr
