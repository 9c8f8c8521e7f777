"""`--weights` on every verb, and `verify` that finds again what an artefact was made from."""

from __future__ import annotations

import json
import shutil
import textwrap

import numpy as np
import pytest
import torch

SETTINGS = ("--set", "image_size=8", "--set", "num_head_channels=32")


@pytest.fixture(scope="module")
def states():
    from support.networks import one_level

    from cmexport.networks.adm_unet import AdmUnet

    def state(seed):
        torch.manual_seed(seed)
        return {k: v + 0.02 * torch.randn_like(v) for k, v in AdmUnet(one_level(3)).state_dict().items()}

    return state(1), state(2)


@pytest.fixture
def pair(states, tmp_path):
    """A training file with raw and averaged weights, and each of them alone."""
    raw, averaged = states
    torch.save({"model": raw, "ema": averaged}, tmp_path / "training.pt")
    torch.save(raw, tmp_path / "raw.pt")
    torch.save(averaged, tmp_path / "averaged.pt")
    return tmp_path


def test_sample_draws_with_the_set_that_is_named(pair, cmexport):
    def pictures(file, *arguments):
        done = cmexport("sample", pair / file, *SETTINGS, "--count", 2, "--save", pair / "y.npz", *arguments, cwd=pair)
        assert done.code == 0, done.stderr
        return np.load(pair / "y.npz")["image"], done.stderr

    raw, _ = pictures("raw.pt")
    averaged, _ = pictures("averaged.pt")
    assert abs(raw - averaged).max() > 0.01
    default, said = pictures("training.pt")
    assert np.array_equal(default, averaged)
    assert "training.pt: takes the weights 'ema' (averaged, preferred to 'model'); --weights NAME chooses" in " ".join(
        said.split()
    )
    chosen, said = pictures("training.pt", "--weights", "model")
    assert np.array_equal(chosen, raw)
    assert "takes the weights" not in said


def test_inspect_and_json(pair, cmexport):
    done = cmexport("inspect", pair / "training.pt", *SETTINGS, "--no-check", "--json")
    found = {s["name"]: s for s in done.json["settings"]}
    assert found["weights"]["value"] == "ema"
    assert not found["weights"]["ambiguous"]
    assert "takes the weights 'ema'" in done.stderr
    done = cmexport("inspect", pair / "training.pt", *SETTINGS, "--no-check", "--weights", "teacher")
    assert done.code == 2
    assert "'model', 'ema'" in done.stderr
    torch.save({"a": torch.load(pair / "raw.pt"), "b": torch.load(pair / "averaged.pt")}, pair / "two.pt")
    for verb in ("inspect", "onnx", "coreml", "tensorrt", "plan", "init"):
        done = cmexport(verb, pair / "two.pt", cwd=pair)
        assert done.code == 3, (verb, done.stderr)
        assert "holds 2 complete sets of weights: 'a', 'b';\nsay which: --weights a" in done.stderr


def test_every_verb_that_loads_a_checkpoint_has_the_option(cmexport):
    for verb in ("onnx", "coreml", "coreai", "tensorrt", "sample", "inspect", "verify", "plan", "tune", "init", "run"):
        assert "--weights" in cmexport(verb, "--help", COLUMNS="200").stdout, verb


def export(cmexport, checkpoint, out, *arguments, cwd=None):
    done = cmexport("onnx", checkpoint, *arguments, "-o", out, "--no-verify", cwd=cwd)
    assert done.code == 0, done.stderr
    (folder,) = out.iterdir()
    return folder, json.loads((folder / "manifest.json").read_text())


def verified(cmexport, folder, *arguments, cwd):
    return cmexport("verify", folder, "--seeds", 8, *arguments, cwd=cwd)


@pytest.mark.parametrize("name", [None, "model"])
def test_verify_finds_the_same_weights_again(name, pair, cmexport):
    chosen = () if name is None else ("--weights", name)
    folder, manifest = export(cmexport, "training.pt", pair / "out", *SETTINGS, *chosen, cwd=pair)
    record = {s["name"]: s for s in manifest["checkpoint"]["settings"]}["weights"]
    assert record["value"] == (name or "ema")
    assert manifest["checkpoint"]["path"] == str(pair / "training.pt")
    (pair / "elsewhere").mkdir()
    assert verified(cmexport, folder, cwd=pair / "elsewhere").code == 0
    # The wrong set fails the gate, so the right one was found.
    other = "model" if name is None else "ema"
    assert verified(cmexport, folder, "--weights", other, cwd=pair).code == 4
    alone = "averaged.pt" if name is None else "raw.pt"
    assert verified(cmexport, folder, "--against", pair / alone, *SETTINGS, cwd=pair).code == 0


def test_relative_folders(pair, cmexport):
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    fields = {"sample_size": 8, "layers_per_block": 1, "block_out_channels": (32,), "attention_head_dim": 32}
    fields |= {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
    UNet2DModel(**fields).save_pretrained(pair / "train" / "unet")
    UNet2DModel(**fields).save_pretrained(pair / "train" / "unet_ema")
    folder, manifest = export(cmexport, "train", pair / "out", cwd=pair)
    assert manifest["checkpoint"]["path"] == str(pair / "train")
    (pair / "elsewhere").mkdir()
    done = verified(cmexport, folder, cwd=pair / "elsewhere")
    assert done.code == 0, done.stderr
    # Other weights in the same place are other weights.
    UNet2DModel(**fields).save_pretrained(pair / "train" / "unet_ema")
    done = verified(cmexport, folder, cwd=pair)
    assert done.code == 2
    assert "is another one than at the export" in done.stderr
    shutil.rmtree(pair / "train")
    assert "is not at" in verified(cmexport, folder, cwd=pair).stderr


def test_hub_models(pair, cmexport, monkeypatch):
    import huggingface_hub
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    fields = {"sample_size": 8, "layers_per_block": 1, "block_out_channels": (32,), "attention_head_dim": 32}
    fields |= {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
    UNet2DModel(**fields).save_pretrained(pair / "cache" / "one" / "unet")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(pair / "cache" / "one"))
    folder, manifest = export(cmexport, "somebody/model", pair / "out")
    assert manifest["checkpoint"]["reference"] == "somebody/model"
    # Another place in the cache, as on another machine.
    (pair / "cache" / "one").rename(pair / "cache" / "two")
    asked = []

    def moved(identity, **_):
        asked.append(identity)
        return str(pair / "cache" / "two")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", moved)
    assert verified(cmexport, folder, cwd=pair).code == 0
    assert asked == ["somebody/model"]


MODULE = """
    import pathlib, torch
    from cmexport.networks.adm_unet import AdmUnet
    from tiny import config

    def build():
        with open(pathlib.Path(__file__).with_name("ran"), "a") as log:
            log.write("x")
        torch.manual_seed(5)
        return AdmUnet(config()), {"image_size": 8, "num_classes": 3}
"""


def test_a_module_is_run_again_only_if_it_was_named_here(pair, cmexport, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(pair / "state"))
    (pair / "net.py").write_text(textwrap.dedent(MODULE))
    (pair / "tiny.py").write_text("from support.networks import one_level\ndef config():\n    return one_level(3)\n")
    folder, manifest = export(cmexport, "net.py:build", pair / "out", cwd=pair)
    assert manifest["checkpoint"]["reference"] == f"{pair}/net.py:build"
    (pair / "elsewhere").mkdir()
    assert verified(cmexport, folder, cwd=pair / "elsewhere").code == 0
    assert (pair / "ran").read_text() == "xx"
    # The same artefact for somebody who never named that file, and for one whose file has changed since.
    for change in (lambda: shutil.rmtree(pair / "state"), lambda: None):
        change()
        done = verified(cmexport, folder, cwd=pair)
        assert done.code == 2
        assert f"--against {pair}/net.py:build" in done.stderr
        assert (pair / "ran").read_text() == "xx"
    monkeypatch.setenv("XDG_STATE_HOME", str(pair / "state"))
    for consent in (("--against", "net.py:build"), ("--trust-checkpoint",)):
        assert verified(cmexport, folder, *consent, cwd=pair).code == 0
    assert (pair / "ran").read_text() == "xxxx"


def test_a_path_that_reads_as_code_is_not_run(pair, cmexport, monkeypatch):
    """A manifest may name any path; one that is also a file must not become `module.py:build`."""
    monkeypatch.setenv("XDG_STATE_HOME", str(pair / "state"))
    folder, manifest = export(cmexport, "raw.pt", pair / "out", *SETTINGS, cwd=pair)
    (pair / "evil.py").write_text("def build():\n    open('ran', 'w')\n")
    (pair / "evil.py:build").write_bytes((pair / "raw.pt").read_bytes())
    for field in ("path", "reference"):
        changed = {**manifest, "checkpoint": {**manifest["checkpoint"], field: str(pair / "evil.py:build")}}
        (folder / "manifest.json").write_text(json.dumps(changed))
        done = verified(cmexport, folder, cwd=pair)
        assert done.code == 2, done.stderr
        assert not (pair / "ran").exists()


def test_a_trusted_pickle_is_verified_with_the_same_word(pair, cmexport):
    from support.networks import one_level

    from cmexport.networks.adm_unet import AdmUnet

    torch.manual_seed(3)
    torch.save(AdmUnet(one_level(3)), pair / "whole.pt")
    folder, _ = export(cmexport, "whole.pt", pair / "out", *SETTINGS, "--trust-checkpoint", cwd=pair)
    done = verified(cmexport, folder, cwd=pair)
    assert done.code == 3
    assert "--trust-checkpoint" in done.stderr
    assert verified(cmexport, folder, "--trust-checkpoint", cwd=pair).code == 0


def test_recipes_and_init(pair, cmexport):
    done = cmexport("init", pair / "training.pt", *SETTINGS, "--weights", "model", "-o", pair / "recipe.toml")
    assert done.code == 0, done.stderr
    assert 'weights = "model"' in (pair / "recipe.toml").read_text()
    shown = cmexport("run", pair / "recipe.toml", "--dry-run", cwd=pair)
    assert "weights model" in shown.stdout
    plan = cmexport("run", pair / "recipe.toml", "--dry-run", "--json", cwd=pair).json
    assert '"--weights", "model"' in json.dumps(plan)
    other = cmexport("run", pair / "recipe.toml", "--weights", "ema", "--dry-run", cwd=pair)
    assert "weights ema" in other.stdout


def test_the_project_file_names_weights(pair, cmexport):
    (pair / "cmexport.toml").write_text(
        'checkpoint = "training.pt"\nweights = "model"\n[set]\nimage_size = 8\nnum_head_channels = 32\n'
    )
    done = cmexport("inspect", "--no-check", "--json", cwd=pair)
    assert {s["name"]: s["value"] for s in done.json["settings"]}["weights"] == "model"
    done = cmexport("inspect", "--no-check", "--json", "--weights", "ema", cwd=pair)
    assert {s["name"]: s["value"] for s in done.json["settings"]}["weights"] == "ema"
    (pair / "cmexport.toml").write_text("weights = 3\n")
    assert cmexport("inspect", "--no-check", cwd=pair).code == 2


def test_a_recipe_says_which_weights_it_took(pair, cmexport):
    (pair / "recipe.toml").write_text(
        '[checkpoint]\nfile = "training.pt"\nset = {image_size = 8, num_head_channels = 32}\n'
        "[targets.onnx]\nseeds = 8\n"
    )
    done = cmexport("run", pair / "recipe.toml", "-o", pair / "out", cwd=pair)
    assert done.code == 0, done.stderr
    said = " ".join(done.stderr.split())
    assert said.count("takes the weights 'ema' (averaged, preferred to 'model'); --weights NAME chooses") == 1
    again = cmexport("run", pair / "recipe.toml", "-o", pair / "out", cwd=pair)
    assert "takes the weights 'ema'" in " ".join(again.stderr.split()), "also of what is kept"
    named = cmexport("run", pair / "recipe.toml", "--weights", "model", "-o", pair / "other", cwd=pair)
    assert named.code == 0, named.stderr
    assert "takes the weights" not in named.stderr
