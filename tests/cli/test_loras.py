"""`--lora` from the command line to the manifest and back: inspect, onnx, verify, sample."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from support import lora_files as files

import cmexport as library
from cmexport.artifact import read_manifest
from cmexport.checkpoints import load_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return files.plain_pipeline(tmp_path_factory.mktemp("cli") / "pipeline")


@pytest.fixture(scope="module")
def layers(folder):
    return files.trained(files.base(folder), only=("to_q", "conv1", "fc1"), alpha=2.0)


@pytest.fixture(scope="module")
def lora(folder, layers):
    return files.saved(folder.parent / "style.safetensors", files.kohya(layers))


def test_inspect_tells_how_much_each_layer_changes(cmexport, folder, lora, layers):
    outcome = cmexport("inspect", folder, "--lora", f"{lora}:0.7", "--json")
    assert outcome.code == 0, outcome.stderr
    (told,) = outcome.json["loras"]
    assert (told["file"], told["scale"], told["dialect"]) == (str(lora), 0.7, "kohya")
    assert told["sha256"] == hashlib.sha256(lora.read_bytes()).hexdigest()
    ratios = {(layer["part"], layer["name"]): layer["ratio"] for layer in told["layers"]}
    assert len(ratios) == len(layers)
    weights = files.base(folder)
    for layer in layers:
        weight = weights[layer.part].get_submodule(layer.name).weight
        added = 0.7 * layer.alpha / 4 * (layer.up.flatten(1) @ layer.down.flatten(1))
        assert ratios[layer.part, layer.name] == pytest.approx(float(added.norm() / weight.norm()), rel=1e-4)
    shown = cmexport("inspect", folder, "--lora", f"{lora}:0.7").stdout
    assert f"at scale 0.7: kohya, {len(layers)} layers of rank 4" in shown
    assert "(with its LoRAs)" in shown
    most = max(ratios, key=ratios.__getitem__)
    assert most[1] in shown
    assert f"{ratios[most]:.3g}" in shown
    assert f"and {len(layers) - 12} layers more, the least changed by {min(ratios.values()):.3g}" in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--lora", "{lora}:0"), "must have a scale other than 0"),
        (("--lora", "a,b.safetensors"), "--lora a,b.safetensors: a file's name must have no comma"),
        (("--lora", "{lora}", "--set", "lora={lora}"), "--set lora: given twice"),
        (("--lora", "{lora}", "--lora", "{lora}:0.5"), "must name each file once"),
    ],
)
def test_one_line_refuses_what_makes_no_sense(arguments, said, cmexport, folder, lora):
    outcome = cmexport("inspect", folder, *(text.format(lora=lora) for text in arguments))
    assert outcome.code == 2
    assert said in outcome.stderr
    assert len(outcome.stderr.splitlines()) == 1


def test_a_guessed_rule_is_said_and_refused_by_strict(cmexport, folder, lora, tmp_path):
    import diffusers

    shutil.copytree(folder, tmp_path / "many")
    diffusers.PNDMScheduler(skip_prk_steps=True).save_pretrained(tmp_path / "many" / "scheduler")
    shutil.copy(lora, tmp_path / "lcm-lora.safetensors")
    arguments = ("inspect", tmp_path / "many", "--lora", tmp_path / "lcm-lora.safetensors")
    outcome = cmexport(*arguments)
    assert outcome.code == 0
    assert "scheduler" in outcome.stderr
    assert "the LoRA is called lcm-lora" in outcome.stderr
    assert cmexport(*arguments, "--strict").code == 3
    assert cmexport(*arguments, "--strict", "--set", "scheduler=tcd").code == 0
    without = cmexport("inspect", tmp_path / "many")
    assert without.code == 3
    assert "--set scheduler=lcm, or tcd" in without.stderr


def test_what_is_exported_is_found_again(cmexport, folder, layers, tmp_path):
    """Export, verify, move, change: the manifest's hash and scale decide, not the name."""
    lora = files.saved(tmp_path / "style.safetensors", files.kohya(layers))
    asked = ("onnx", folder, "--steps", "1", "--seeds", "8", "-o", tmp_path / "out")
    outcome = cmexport(*asked, "--lora", f"{lora}:0.7")
    assert outcome.code == 0, outcome.stderr
    (artifact,) = (tmp_path / "out").iterdir()
    (record,) = read_manifest(artifact).checkpoint.loras
    assert (record.file, record.scale, record.layers) == (lora.name, 0.7, len(layers))
    assert record.sha256 == hashlib.sha256(lora.read_bytes()).hexdigest()

    verified = cmexport("verify", artifact, "--seeds", "8")
    assert verified.code == 0, verified.stderr
    assert "golden" not in verified.stderr
    other = cmexport(*asked, "--lora", f"{lora}:0.8")
    assert other.code == 2
    assert "another checkpoint" in other.stderr

    lora.rename(tmp_path / "moved.safetensors")
    gone = cmexport("verify", artifact)
    assert gone.code == 0
    assert f"the LoRA style.safetensors is not at {lora} any more" in " ".join(gone.stderr.split())
    assert "golden" in gone.stderr
    found = cmexport("verify", artifact, "--seeds", "8", "--lora", f"{tmp_path / 'moved.safetensors'}:0.7")
    assert found.code == 0, found.stderr
    assert "golden" not in found.stderr

    weaker = files.kohya([replace(layer, down=layer.down * 0.1) for layer in layers])
    files.saved(lora, weaker)
    changed = " ".join(cmexport("verify", artifact).stderr.split())
    assert f"the LoRA style.safetensors at {lora} is another one than at the export" in changed


def test_sample_and_python_take_it(cmexport, folder, lora, tmp_path):
    drawn = []
    for more in ((), ("--lora", lora)):
        outcome = cmexport("sample", folder, "--prompt", "a cat", "--save", tmp_path / "y.npz", *more)
        assert outcome.code == 0, outcome.stderr
        drawn.append(np.load(tmp_path / "y.npz")["image"])
    assert np.abs(drawn[0] - drawn[1]).max() > 0.05
    loaded = library.load(folder, lora=[f"{lora}:0.5"])
    expected = load_checkpoint(folder, {"lora": f"{lora}:0.5"})
    assert loaded.loras == expected.loras
    assert loaded.source == expected.source
    with pytest.raises(library.UsageError, match=r"^lora=.* must have a scale other than 0"):
        library.load(folder, lora=f"{lora}:0")


def test_recipes_name_files_beside_them(cmexport, folder, lora, tmp_path):
    (tmp_path / "loras").mkdir()
    copied = shutil.copy(lora, tmp_path / "loras" / "style.safetensors")
    recipe = tmp_path / "recipe.toml"
    text = f"[checkpoint]\nfile = '{folder}'\nlora = ['loras/style.safetensors:0.7']\n[targets.onnx]\nseeds = 8\n"
    recipe.write_text(text)
    planned = cmexport("run", recipe, "--dry-run", "--json")
    assert planned.code == 0, planned.stderr
    assert f"lora={copied}:0.7" in json.dumps(planned.json)
    recipe.write_text(text.replace("[targets", "set = { lora = 'a.pt' }\n[targets"))
    twice = cmexport("run", recipe, "--dry-run")
    assert twice.code == 2
    assert "lora is said twice" in twice.stderr
