"""The boundary check: f(x, sigma_min) = x."""

import dataclasses

import pytest
import torch

from cmexport.checkpoints import load_checkpoint
from cmexport.checkpoints.boundary import boundary_error, require_boundary
from cmexport.errors import CheckpointError
from cmexport.sampling import preconditioning


@pytest.fixture
def model(adm, save):
    return load_checkpoint(save(adm().state_dict()), {"num_head_channels": "32", "image_size": "16"})


def test_both_forms_hold(model):
    assert boundary_error(model) == 0
    assert boundary_error(dataclasses.replace(model, preconditioning="edm")) == 0


def test_a_wrong_formula_is_noticed(model, monkeypatch):
    wrong = {**preconditioning.PRECONDITIONINGS, "cm": preconditioning.edm}
    monkeypatch.setattr(preconditioning, "PRECONDITIONINGS", wrong)
    assert boundary_error(model) > 1e-4
    with pytest.raises(CheckpointError, match=r"model\.pt.*differs from x"):
        require_boundary(model)


class Wrong(torch.nn.Module):
    def __init__(self, result):
        super().__init__()
        self.result = result

    def forward(self, x, c_noise, label=None):
        return self.result(x)


@pytest.mark.parametrize(
    "result",
    [lambda x: x * float("nan"), lambda x: x[:, :1], lambda x: x.reshape(7), lambda x: x[9], lambda x: x.nothing],
)
def test_a_network_that_does_not_work(model, result):
    with pytest.raises(CheckpointError, match=r"model\.pt"):
        require_boundary(dataclasses.replace(model, network=Wrong(result)))
