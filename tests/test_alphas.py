"""Tables and timesteps of few-step schedulers against diffusers' own, and the configurations that are refused."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import diffusers
import pytest
import torch

from cmexport.alphas import KINDS, AlphaSchedule
from cmexport.errors import CheckpointError, UsageError

WHERE = Path("model/scheduler/scheduler_config.json")
TRAILING = {"timestep_spacing": "trailing"}
TABLES = {
    "defaults": {},
    "linear": {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02},
    "scaled": {"beta_schedule": "scaled_linear", "beta_start": 0.0008, "beta_end": 0.013},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "trained": {"trained_betas": [0.01 + 0.001 * i for i in range(200)], "num_train_timesteps": 200},
}


def config_of(name, **fields):
    return {"_class_name": name, **(TRAILING if name.startswith("Euler") else {}), **fields}


def read(name="LCMScheduler", **fields):
    return AlphaSchedule.from_config(config_of(name, **fields), WHERE)


def theirs(name, **fields):
    return getattr(diffusers, name).from_config(config_of(name, **fields))


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("table", TABLES)
def test_the_table_is_diffusers(name, table):
    schedule = read(name, **TABLES[table])
    assert torch.equal(torch.tensor(schedule.alphas_cumprod), theirs(name, **TABLES[table]).alphas_cumprod)
    alphas = torch.tensor(schedule.alphas_cumprod, dtype=torch.float64)
    torch.testing.assert_close(
        torch.tensor(schedule.sigmas, dtype=torch.float64), ((1 - alphas) / alphas).sqrt(), rtol=1e-14, atol=0
    )


def test_what_diffusers_saves_is_read(tmp_path):
    theirs("LCMScheduler", clip_sample=True, clip_sample_range=2.5, prediction_type="sample").save_pretrained(tmp_path)
    config = diffusers.LCMScheduler.load_config(tmp_path)
    schedule = AlphaSchedule.from_config(config, tmp_path)
    assert (schedule.kind, schedule.clip, schedule.prediction) == ("lcm", 2.5, "sample")
    assert schedule.alphas_cumprod[999] == pytest.approx(0.00466010, abs=5e-9)


@pytest.mark.parametrize("name", ["LCMScheduler", "TCDScheduler"])
def test_timesteps_on_the_grid_of_a_distillation(name):
    for original, steps, strength in itertools.product((20, 50, 100), range(1, 13), (1.0, 0.8, 0.58, 0.5, 0.3)):
        schedule = read(name, original_inference_steps=original)
        scheduler = theirs(name, original_inference_steps=original)
        try:
            scheduler.set_timesteps(steps, strength=strength)
        except ValueError:
            with pytest.raises(UsageError, match=f"--steps {steps}"):
                schedule.timesteps(steps, strength)
        else:
            assert schedule.timesteps(steps, strength) == tuple(scheduler.timesteps.tolist())


@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler"])
def test_trailing_timesteps(name):
    schedule, scheduler = read(name), theirs(name)
    for steps in range(1, 60):
        scheduler.set_timesteps(steps)
        assert schedule.timesteps(steps) == tuple(int(t) for t in scheduler.timesteps)
    assert read(name).timesteps(4, 0.5) == (499, 249)
    with pytest.raises(UsageError, match="less than one step; --steps 4"):
        schedule.timesteps(1, 0.3)


def test_accounts_and_defaults():
    assert read().account(read().timesteps(4)) == "4 of LCM's 50 steps: timesteps 999,759,499,259"
    turbo = read("EulerAncestralDiscreteScheduler")
    assert (read().default_steps, read("TCDScheduler").default_steps, turbo.default_steps) == (4, 4, 1)


def test_every_level_finds_its_timestep_again():
    schedule = read()
    assert [schedule.timestep_of(s) for s in schedule.sigmas] == list(range(1000))
    assert schedule.timestep_of(14.6) == 999  # 14.6146
    assert schedule.timestep_of(1.6129) == 499
    for sigma in (80.0, 0.001, math.nan):
        with pytest.raises(UsageError, match=r"between 0.02917 and 14.6146"):
            schedule.timestep_of(sigma)


@pytest.mark.parametrize(
    ("timesteps", "said"), [((999, 999), "descend"), ((1000,), "0 to 999"), ((), "0 to 999"), ((5, -1), "0 to 999")]
)
def test_timesteps_that_the_network_does_not_have(timesteps, said):
    with pytest.raises(UsageError, match=said):
        read().check_timesteps(timesteps)


@pytest.mark.parametrize(
    ("name", "fields", "said"),
    [
        ("DDIMScheduler", {}, "its scheduler is DDIMScheduler"),
        ("EulerDiscreteScheduler", {"timestep_spacing": "leading"}, 'timestep_spacing "leading"'),
        ("EulerAncestralDiscreteScheduler", {"prediction_type": "sample"}, "prediction_type is 'sample'"),
        ("EulerDiscreteScheduler", {"use_karras_sigmas": True}, "use_karras_sigmas True"),
        ("EulerDiscreteScheduler", {"final_sigmas_type": "sigma_min"}, "final_sigmas_type sigma_min"),
        ("LCMScheduler", {"thresholding": True}, "thresholding True"),
        ("LCMScheduler", {"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr True"),
        ("LCMScheduler", {"prediction_type": "flow"}, "prediction_type is 'flow'"),
        ("LCMScheduler", {"prediction_type": ["epsilon"]}, "prediction_type"),
        ("LCMScheduler", {"beta_schedule": "sigmoid"}, "beta_schedule is 'sigmoid'"),
        ("LCMScheduler", {"beta_end": "0.012"}, "beta_end is '0.012'"),
        ("LCMScheduler", {"beta_end": 3.0}, "no noise schedule"),
        ("LCMScheduler", {"beta_end": math.nan}, "beta_end is nan"),
        ("LCMScheduler", {"num_train_timesteps": 0}, "num_train_timesteps is 0"),
        ("LCMScheduler", {"original_inference_steps": 2000}, "original_inference_steps is 2000"),
        ("LCMScheduler", {"trained_betas": [0.1, 0.2]}, "2 trained_betas"),
        ("LCMScheduler", {"trained_betas": "many"}, "no list of numbers"),
        ("LCMScheduler", {"timestep_scaling": True}, "timestep_scaling is True"),
        ("LCMScheduler", {"clip_sample": True, "clip_sample_range": None}, "clip_sample_range is None"),
    ],
)
def test_refusals_name_the_file_and_the_entry(name, fields, said):
    with pytest.raises(CheckpointError) as refused:
        read(name, **fields)
    assert str(refused.value).startswith(f"{WHERE}: ")
    assert said in str(refused.value)


def test_a_config_without_a_class_is_refused():
    with pytest.raises(CheckpointError, match="its scheduler is None"):
        AlphaSchedule.from_config({}, WHERE)
