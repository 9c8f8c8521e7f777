"""`--sampler euler` on every target: unrolled as K steps are, without noise between; artefacts are called after it."""

from __future__ import annotations

import pytest
from support.networks import SETTINGS

from cmexport.artifact import read_manifest


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
