"""Few-step rules over the table of a scheduler of many steps: diffusers' `from_config` makes the same of it."""

from __future__ import annotations

import diffusers
import pytest
import torch
from support import lora_files as files
from support.latent_pipelines import PROMPTS, drawn_by_diffusers, save_pipeline

from cmexport.checkpoints import load_checkpoint
from cmexport.errors import CheckpointError, UsageError
from cmexport.model import SampleRequest
from cmexport.sampling.methods import resolve

TABLE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
FEW = {
    "lcm": (diffusers.LCMScheduler, {}),
    "tcd": (diffusers.TCDScheduler, {}),
    "euler": (diffusers.EulerDiscreteScheduler, {"timestep_spacing": "trailing"}),
    "euler_ancestral": (diffusers.EulerAncestralDiscreteScheduler, {"timestep_spacing": "trailing"}),
}
MANY = {
    "PNDM": diffusers.PNDMScheduler(**TABLE, skip_prk_steps=True, steps_offset=1),
    "DDIM of v": diffusers.DDIMScheduler(**TABLE, prediction_type="v_prediction", clip_sample=False),
    "Euler": diffusers.EulerDiscreteScheduler(**TABLE),
    "PNDM's own table": diffusers.PNDMScheduler(),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_pipeline(tmp_path_factory.mktemp("many"), "lcm", latent=False)


def with_scheduler(folder, scheduler):
    scheduler.save_pretrained(folder / "scheduler")
    return folder


@pytest.mark.parametrize("kind", FEW)
@pytest.mark.parametrize("name", MANY)
def test_the_table_stays_and_the_rule_is_the_one_that_is_said(name, kind, folder):
    scheduler, more = FEW[kind]
    many = MANY[name]
    many.save_pretrained(folder / "scheduler")
    model = load_checkpoint(folder, {"scheduler": kind})
    said = next(s for s in model.settings if s.name == "scheduler")
    assert (said.value, said.origin, said.ambiguous) == (kind, "--set scheduler", False)
    # As people do it: what the file leaves out is the new class's default, not the old one's.
    read = type(many).from_pretrained(folder, subfolder="scheduler")
    scheduler.from_config(read.config, **more).save_pretrained(folder / "scheduler")
    assert load_checkpoint(folder).schedule == model.schedule


@pytest.fixture(scope="module")
def lora(folder):
    """A Hyper-SD, as far as its name goes; for a pipeline whose scheduler takes 50 steps."""
    MANY["PNDM"].save_pretrained(folder / "scheduler")
    layers = files.trained(files.base(folder), only=("to_q", "conv1", "proj_in"), alpha=2.0)
    return files.saved(folder.parent / "Hyper-SD15-1step-lora.safetensors", files.kohya(layers))


@pytest.mark.parametrize(("kind", "eta"), [("tcd", 1.0), ("lcm", None)])
def test_one_step_of_hyper_sd_is_diffusers(kind, eta, folder, lora, tmp_path):
    """Weights, table, step at 800 and picture: `load_lora_weights`, `fuse_lora`, `from_config`, `timesteps=[800]`."""
    MANY["PNDM"].save_pretrained(folder / "scheduler")
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipe.load_lora_weights(str(lora.parent), weight_name=lora.name)
    pipe.fuse_lora(components=["unet", "text_encoder"], lora_scale=0.7)
    pipe.unload_lora_weights()
    pipe.scheduler = FEW[kind][0].from_config(pipe.scheduler.config)
    pipe.save_pretrained(tmp_path)

    model = load_checkpoint(folder, {"lora": f"{lora}:0.7", "scheduler": kind})
    sampler = resolve(model, SampleRequest((model.schedule.sigma_of(800),), batch=len(PROMPTS), eta=eta))
    given = sampler.signature.examples(5)
    given["tokens"] = torch.tensor([model.tokenizer.encode(prompt) for prompt in PROMPTS])
    more = {} if eta is None else {"eta": eta}
    expected = drawn_by_diffusers(tmp_path, PROMPTS, given, guidance=1.0, steps=1, timesteps=[800], **more)
    assert expected.std() > 0.01
    assert (sampler.module()(**given) - expected).abs().max() < 4e-4
    other = load_checkpoint(folder, {"scheduler": kind})
    plain = resolve(other, sampler.request).module()(**given)
    assert (plain - expected).abs().max() > 0.05


NAMES = {
    "Hyper-SD15-1step-lora": "tcd",
    "TCD-SD15-LoRA": "tcd",
    "pytorch_lora_weights in lcm-lora-sdv1-5": "lcm",
    "my_lcm_style": "lcm",
}


# SDXL's base has Euler's steps, with leading timesteps.
@pytest.mark.parametrize("scheduler", ["PNDM", "Euler"])
@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_a_guess(name, scheduler, folder, lora, tmp_path):
    MANY[scheduler].save_pretrained(folder / "scheduler")
    file, _, parent = name.partition(" in ")
    path = tmp_path / (parent or "loras") / f"{file}.safetensors"
    path.parent.mkdir()
    path.write_bytes(lora.read_bytes())
    (guess,) = load_checkpoint(folder, {"lora": str(path)}).assumed
    assert (guess.name, guess.value) == ("scheduler", NAMES[name])
    assert guess.origin == f"guess: the LoRA is called {parent or file}"
    assert not load_checkpoint(folder, {"lora": str(path), "scheduler": "euler"}).assumed


def test_a_title_in_the_header_is_a_guess(folder, lora, tmp_path):
    MANY["PNDM"].save_pretrained(folder / "scheduler")
    layers = files.trained(files.base(folder), only=("to_q",))
    path = files.saved(tmp_path / "a.safetensors", files.kohya(layers), {"ss_output_name": "sd15 TCD"})
    (guess,) = load_checkpoint(folder, {"lora": str(path)}).assumed
    assert (guess.value, guess.origin) == ("tcd", "guess: the LoRA is called sd15 TCD")


@pytest.mark.parametrize("name", ["style", "hypernetwork", "hyperreal", "welcome", "tcdx"])
def test_other_names_say_nothing(name, folder, lora, tmp_path):
    MANY["PNDM"].save_pretrained(folder / "scheduler")
    path = tmp_path / f"{name}.safetensors"
    path.write_bytes(lora.read_bytes())
    with pytest.raises(CheckpointError, match=r"scheduler is PNDMScheduler; .*\n.*--set scheduler=lcm, or tcd"):
        load_checkpoint(folder, {"lora": str(path)})


def test_a_few_step_scheduler_is_not_guessed_anew(folder, lora):
    FEW["lcm"][0](**TABLE).save_pretrained(folder / "scheduler")
    model = load_checkpoint(folder, {"lora": str(lora)})
    assert (model.schedule.kind, model.assumed) == ("lcm", ())


def test_unknown_rules(folder):
    with pytest.raises(UsageError, match="must be one of lcm, tcd, euler, euler_ancestral"):
        load_checkpoint(folder, {"scheduler": "ddim"})
