"""What the command line says of latent text-to-image models, without an export."""

from __future__ import annotations

import tomllib

import pytest
from support.latent_pipelines import decoder, tiny_pipeline

from cmexport.checkpoints import load_checkpoint


def test_inspect_shows_parts_and_timesteps(cmexport):
    outcome = cmexport("inspect", tiny_pipeline())
    assert outcome.code == 0, outcome.stderr
    for said in ("4 of LCM's 50 steps: timesteps 999,759,499,259", "latents 4 x 8 x 8", "pictures 3 x 16 x 16", "8.5"):
        assert said in outcome.stdout
    for word in ("sigma_data", "levels", "c_skip", "Ambiguous"):
        assert word not in outcome.stdout
    facts = cmexport("inspect", tiny_pipeline("euler_ancestral"), "--json").json
    assert facts["timesteps"] == [999]
    assert facts["guidance"] == 1.0
    assert (facts["latents"], facts["pictures"]) == ([4, 8, 8], [3, 16, 16])
    assert facts["self_check"] is None
    assert not {"one_step", "two_steps"} & set(facts)
    assert sum(facts["parts"].values()) == facts["parameters"]
    loaded = load_checkpoint(tiny_pipeline("euler_ancestral"))
    assert facts["parts"]["decoder"] == sum(p.numel() for p in loaded.codec.decoder.parameters())


def test_inspect_with_another_decoder(cmexport, tmp_path):
    decoder("tiny").save_pretrained(tmp_path / "small")
    facts = cmexport("inspect", tiny_pipeline("lcm", "kl"), "--decoder", f"tiny:{tmp_path / 'small'}", "--json").json
    (chosen,) = (s for s in facts["settings"] if s["name"] == "decoder")
    assert chosen["value"] == f"tiny:{tmp_path / 'small'}"
    assert facts["parts"]["decoder"] == sum(p.numel() for p in decoder("tiny").decoder.parameters())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("inspect", "--pictures", "none.png"), "--pictures: nothing is tried"),
        (("inspect", "--decoder", "small"), "must be tiny:FOLDER"),
        (("inspect", "--set", "sigma_data=0.3"), "no such constant"),
        (("onnx", "--label", "1"), "--label 1: this model takes a prompt, no label"),
        (("onnx", "--sampler", "heun"), "it has --sampler consistency and tcd"),
        (("onnx", "--steps", "51"), "LCM has 1 to 50 steps"),
        (("onnx", "--timesteps", "1,2"), "must descend"),
        (("onnx", "--w6"), "fp32, fp16, int8, a16w8, w8, w4; w6 is for `cmexport coreml`"),
        (("tensorrt", "--w8"), "fp32, fp16, bf16, int8, fp8; w8 is for `cmexport onnx`, `cmexport coreml`"),
        (("onnx", "--guidance", "0.5"), "must lie between 1 and 100"),
        (("onnx", "--task", "superres", "--patch", "2"), "samples latents"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_one_line_refuses_what_makes_no_sense(arguments, said, cmexport):
    verb, *options = arguments
    outcome = cmexport(verb, tiny_pipeline(), *options)
    assert outcome.code == 2
    assert said in outcome.stderr
    assert len(outcome.stderr.splitlines()) == 1


def test_init_writes_its_own_number_of_steps(cmexport, tmp_path):
    outcome = cmexport("init", tiny_pipeline("euler_ancestral"), "-o", tmp_path / "turbo.toml")
    assert outcome.code == 0, outcome.stderr
    recipe = tomllib.loads((tmp_path / "turbo.toml").read_text())
    assert recipe["description"].endswith(": 16x16 pictures of prompts")
    assert recipe["schedules"] == {"usual": {"steps": 1}}
    assert cmexport("init", tiny_pipeline(), "-o", tmp_path / "lcm.toml").code == 0
    assert tomllib.loads((tmp_path / "lcm.toml").read_text())["schedules"] == {"usual": {"steps": 4}}
    planned = cmexport("run", tmp_path / "lcm.toml", "--dry-run")
    assert "onnx --precision fp32 --steps 4" in planned.stdout
