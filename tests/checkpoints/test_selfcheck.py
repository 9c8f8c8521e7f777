"""The self-checks on the demo model: a deliberately wrong reading must be caught, the right one left alone."""

import pytest
import torch
from PIL import Image

from cmexport.checkpoints import load_checkpoint
from cmexport.checkpoints.selfcheck import check_on_pictures, default_pictures, read_pictures, self_check
from cmexport.demo import demo_checkpoint
from cmexport.errors import CheckpointError


def check(**overrides):
    model = load_checkpoint(demo_checkpoint(), overrides)
    return self_check(model, read_pictures(default_pictures(), model))


def test_the_right_reading_is_left_alone():
    found = check()
    assert found.warnings == ()
    assert found.interpretations[0].chosen
    assert found.boundary == 0
    assert found.margin > 1.1
    assert 0.3 < found.spread < 0.6
    assert [reading.error for reading in found.interpretations] == sorted(r.error for r in found.interpretations)
    assert len(found.interpretations) == 6


@pytest.mark.parametrize(
    ("wrong", "right", "factor"),
    [({"qkv_order": "head_major"}, "qkv_order=thirds", 1.1), ({"c_noise": "0.25ln"}, "c_noise=250ln", 1.3)],
)
def test_a_wrong_reading_is_caught(wrong, right, factor):
    found = check(**wrong)
    assert not found.interpretations[0].chosen
    assert found.chosen.error > factor * found.interpretations[0].error
    assert len([w for w in found.warnings if f"--set {right}" in w]) == 1


def test_one_head_has_one_order(adm, save):
    model = load_checkpoint(save(adm(num_head_channels=64).state_dict()), {"num_head_channels": "64"})
    found = self_check(model, torch.zeros(1, 3, 16, 16))
    assert {reading.fields["qkv_order"] for reading in found.interpretations} == {"thirds"}


def test_a_file_whose_samples_hardly_differ_is_called_a_teacher(adm, save):
    """A network that ignores its input answers with one mean picture, as a diffusion teacher does at sigma_max."""
    state = adm().state_dict()
    state["out.2.weight"] = torch.zeros_like(state["out.2.weight"])
    model = load_checkpoint(save(state), {"num_head_channels": "32", "image_size": "16"})
    found = self_check(model, torch.zeros(2, 3, 16, 16))
    assert any("teacher" in warning for warning in found.warnings)


def test_pictures(tmp_path):
    model = load_checkpoint(demo_checkpoint())
    Image.new("RGBA", (100, 60), (255, 0, 128, 255)).save(tmp_path / "a.png")
    picture = read_pictures([tmp_path / "a.png"], model)
    assert picture.shape == (1, 3, 32, 32)
    assert torch.allclose(picture[0, :, 5, 5], torch.tensor([1.0, -1.0, 128 / 127.5 - 1]), atol=1e-5)
    (tmp_path / "b.png").write_text("no picture")
    with pytest.raises(CheckpointError, match=r"b\.png"):
        read_pictures([tmp_path / "b.png"], model)
    assert len(default_pictures()) == 4


@pytest.mark.parametrize("order", ["thirds", "head_major"])
def test_a_tie_gives_no_advice(order, adm, save):
    """Attention that hardly counts: one of the two orders errs less by a rounding, which says nothing of either."""
    state = adm(num_head_channels=16).state_dict()
    state |= {k: 1e-5 * v for k, v in state.items() if "proj_out" in k}
    model = load_checkpoint(save(state), {"num_head_channels": "16", "image_size": "16", "qkv_order": order})
    found = self_check(model, read_pictures(default_pictures(), model))
    errors = [r.error for r in found.interpretations if r.fields["c_noise"] == model.c_noise]
    assert errors[0] != errors[1]
    assert max(errors) < 1.0001 * min(errors)
    said = " ".join(found.warnings)
    assert "--set qkv_order" not in said
    assert "1.00 times" not in said


def test_pictures_of_other_channels_are_not_made_up(adm, save):
    network = adm(in_channels=4, out_channels=4)
    model = load_checkpoint(save(network.state_dict()), {"num_head_channels": "32", "image_size": "16"})
    assert check_on_pictures(model) is None
