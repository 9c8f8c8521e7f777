"""`--sampler euler` and `gamma` on every target: unrolled as K steps are; artefacts are called after them."""

from __future__ import annotations

import math

import pytest
import torch
from support.networks import SETTINGS, random_weights, tiny_config

from cmexport.artifact import read_manifest
from cmexport.networks.ctm_unet import CtmUnet
from cmexport.recorded import request_of


@pytest.mark.parametrize("target", ["onnx", "coreml", "tensorrt"])
def test_euler_steps_go_to_every_target(target, tiny_checkpoint, cmexport, tmp_path):
    wanted = ("--sampler", "euler", "--sigmas", "80,2", "--seeds", 8)
    outcome = cmexport(target, tiny_checkpoint, *SETTINGS, *wanted, "-o", tmp_path)
    assert outcome.code == 0, outcome.stderr
    manifest = read_manifest(tmp_path / f"tiny-euler2-{target}-fp32")
    assert manifest.parity.passed
    assert [each.name for each in manifest.signature.inputs] == ["noise", "label"]
    first, last = manifest.sampling.evaluations
    # x <- (s'/s) x + (1 - s'/s) f(x, s): with f's c_skip near 0 at sigma 80, 2 / 80 of x stays; the last step is f.
    assert first.c_skip == pytest.approx(2 / 80, rel=1e-2)
    assert (last.c_skip, last.noise_std) == (pytest.approx(0.25 / (2**2 + 0.25), rel=2e-3), 0.0)


def test_exact_jumps_need_a_network_that_is_told_where_to(tiny_checkpoint, cmexport, tmp_path):
    outcome = cmexport("onnx", tiny_checkpoint, *SETTINGS, "--sampler", "exact", "-o", tmp_path)
    assert outcome.code == 2
    assert "others have --sampler euler" in outcome.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def ctm_checkpoint(tmp_path_factory):
    network = CtmUnet(tiny_config(None))
    path = tmp_path_factory.mktemp("ctm") / "jumps.pt"
    torch.save(random_weights(network, 4).state_dict(), path)
    return path


@pytest.mark.parametrize("target", ["onnx", "coreml", "tensorrt"])
def test_jumps_with_noise_go_to_every_target(target, ctm_checkpoint, cmexport, tmp_path):
    wanted = ("--sampler", "gamma", "--gamma", 0.6, "--sigmas", "80,2", "--seeds", 8)
    outcome = cmexport(target, ctm_checkpoint, *SETTINGS, *wanted, "-o", tmp_path)
    assert outcome.code == 0, outcome.stderr
    manifest = read_manifest(tmp_path / f"jumps-gamma2-{target}-fp32")
    assert manifest.parity.passed
    assert [each.name for each in manifest.signature.inputs] == ["noise", "renoise"]
    assert (manifest.sampling.sampler, manifest.sampling.gamma) == ("gamma", 0.6)
    # To 0.8 (2 - 0.002) + 0.002, and up to 2 again.
    first, last = manifest.sampling.evaluations
    assert first.c_noise_target == pytest.approx(250 * math.log(1.6004))
    assert last.noise_std == pytest.approx(math.sqrt(2**2 - 1.6004**2))
    assert last.c_noise_target == pytest.approx(250 * math.log(0.002))
    # What verifies it later knows of gamma from the manifest alone.
    assert request_of(manifest).gamma == 0.6
