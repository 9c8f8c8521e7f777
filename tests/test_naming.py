"""A name is cut where a format's suffix stands, and nowhere else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.networks import tiny_config

from cmexport.checkpoints import loading
from cmexport.checkpoints.own_module import load_module
from cmexport.checkpoints.settings import settings_for
from cmexport.checkpoints.sidecar import read_sidecar
from cmexport.model import CheckpointSource
from cmexport.naming import checkpoint_stem, model_name, run_of_steps, shown_name
from cmexport.networks.adm_unet import AdmUnet


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("cm-v1.0", "cm-v1.0"),
        ("ema_0.9999", "ema_0.9999"),
        ("ema_0.9999_500000.pt", "ema_0.9999_500000"),
        ("same.pt", "same"),
        ("same.safetensors", "same"),
        ("cm.fp16.SafeTensors", "cm.fp16"),
        ("run1.2.pth.tar", "run1.2"),
        ("cm.ckpt", "cm"),
        ("model.onnx", "model"),
        ("edm-v2.1.pkl", "edm-v2.1"),
        (".pt", ".pt"),
        ("epoch.12", "epoch.12"),
        ("lr1e-4.wd0.01", "lr1e-4.wd0.01"),
    ],
)
def test_only_suffixes_of_checkpoints_are_cut(name: str, stem: str) -> None:
    assert checkpoint_stem(name) == stem
    assert model_name(Path("/somewhere") / name) == stem


def test_a_folder_keeps_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cm-v1.0", "cm.pt", "x.bin"):
        (tmp_path / name).mkdir()
        assert model_name(tmp_path / name) == name
    monkeypatch.chdir(tmp_path / "cm-v1.0")
    assert model_name(Path()) == "cm-v1.0"
    assert model_name(Path("../cm.pt/../cm-v1.0")) == "cm-v1.0"


def test_hub_models_are_called_after_the_model(tmp_path: Path) -> None:
    assert model_name("openai/diffusers-cd_imagenet64_l2") == "diffusers-cd_imagenet64_l2"
    cached = tmp_path / "models--openai--diffusers-cd_v1.5" / "snapshots" / "9c1f3a0b2d"
    cached.mkdir(parents=True)
    assert model_name(cached) == "diffusers-cd_v1.5"
    assert shown_name(cached / "ema_0.999.pt") == "ema_0.999.pt"


def test_functions_of_one_module_are_told_apart() -> None:
    assert [model_name(f"a/nets.v2.py:{f}") for f in ("build", "large")] == ["nets.v2", "nets.v2-large"]


def test_a_source_is_named_after_its_file() -> None:
    source = CheckpointSource(Path("x/cm-v1.0.pt"), "openai", "0" * 64, 1)
    assert source.name == "cm-v1.0"
    assert replace(source, format="edm").name == "cm-v1.0"


def test_a_hub_id_names_the_model_whatever_its_cache_is_called(tmp_path, monkeypatch) -> None:
    diffusers = pytest.importorskip("diffusers")
    folder = tmp_path / "0123abcd"
    unet = diffusers.UNet2DModel(
        *(),
        sample_size=8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
        resnet_time_scale_shift="scale_shift",
        attn_norm_num_groups=32,
        num_class_embeds=3,
    )
    unet.save_pretrained(folder)
    (folder / "config.json").exists()
    monkeypatch.setattr(loading, "fetch_from_hub", lambda *_: folder)
    monkeypatch.chdir(tmp_path)
    model = loading.load_checkpoint("someone/cm-v1.5")
    assert model.source.name == "cm-v1.5"
    assert loading.load_checkpoint(folder).source.name == "0123abcd"


def test_a_module_that_is_loaded_is_named_by_its_function(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(
        "import torch\n"
        "class N(torch.nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.c = torch.nn.Conv2d(3, 3, 1)\n"
        "    def forward(self, x, t):\n        return self.c(x)\n"
        "def small():\n    return N(), {'image_size': 8}\n"
    )
    assert load_module(f"{tmp_path}/nets.py:small").source.name == "nets-small"


def test_settings_of_one_file_are_not_anothers(tmp_path: Path) -> None:
    # `cm-v1.0` and `cm-v1.5` are both `cm-v1` to Path.with_suffix: either would have read the other's constants.
    for version in ("0", "5"):
        torch.save(AdmUnet(tiny_config()).state_dict(), tmp_path / f"cm-v1.{version}")
        (tmp_path / f"cm-v1.{version}.toml").write_text(f"[set]\nlevels = {10 + int(version)}\n")
    (tmp_path / "cm-v1.toml").write_text("[set]\nlevels = 99\n")
    assert read_sidecar(tmp_path / "cm-v1.0").values == {"levels": "10"}
    assert read_sidecar(tmp_path / "cm-v1.5").values == {"levels": "15"}
    assert settings_for(tmp_path / "run.cifar", {}).stem == "run.cifar"


def test_runs_are_called_after_their_steps():
    assert [run_of_steps(steps) for steps in (1, 2, 12)] == ["1-step", "2-steps", "12-steps"]
