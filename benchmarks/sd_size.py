"""A text-to-image pipeline of Stable Diffusion 1.5's size with random weights, for time and memory.

    python -m benchmarks.sd_size make /tmp/sd15

Structure and parameters are those of LCM_Dreamshaper_v7: UNet 859,602,884 (with `cond_proj`), CLIP-L's text encoder
123,060,480, and AutoencoderTiny's decoder. Weights are drawn module by module by torch's own initialization, in half
precision on disk; the tokenizer is the packaged emoji model's, whose 2,014 tokens are the first of 49,408. Its pictures
show nothing, so this is for seconds and bytes; how faithful files are is measured on trained models.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from cmexport.demo import demo_checkpoint

TEXT_WIDTH, TEXT_WORDS, GUIDANCE_WIDTH = 768, 49_408, 256
UNET_PARAMETERS, TEXT_PARAMETERS = 859_602_884, 123_060_480


def make(folder: Path, seed: int = 0, side: int = 64) -> Path:
    """Write the pipeline's folder, 2 GB; one module's weights in float32 exist at a time.

    Args:
        folder: written to.
        seed: of the weights.
        side: of the latents; pictures have 8 times that.
    """
    from diffusers import AutoencoderTiny, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    emoji = demo_checkpoint("emoji")
    text = CLIPTextConfig(
        vocab_size=TEXT_WORDS,
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        num_hidden_layers=12,
        num_attention_heads=12,
        bos_token_id=2012,
        eos_token_id=2013,
        pad_token_id=2013,
    )
    parts: dict[str, tuple[str, Callable[[], Any]]] = {
        # UNet2DConditionModel's own defaults are Stable Diffusion's.
        "unet": (
            "diffusion_pytorch_model",
            lambda: UNet2DConditionModel(
                sample_size=side, cross_attention_dim=TEXT_WIDTH, time_cond_proj_dim=GUIDANCE_WIDTH
            ),
        ),
        "text_encoder": ("model", lambda: CLIPTextModel(text)),
        "vae": ("diffusion_pytorch_model", AutoencoderTiny),
    }
    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for part, (name, build) in parts.items():
        with torch.device("meta"):
            module = build()
        _write(module, folder / part, name)
    for part in ("tokenizer", "scheduler"):
        shutil.copytree(emoji / part, folder / part, dirs_exist_ok=True)
    index = json.loads((emoji / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))
    return folder


def _write(module: Any, folder: Path, name: str) -> None:
    """Fill and save one part; a weight that belongs to no module's initialization would stay without numbers."""
    from diffusers import ModelMixin
    from safetensors.torch import save_file

    tensors: dict[str, torch.Tensor] = {}
    for prefix, each in module.named_modules():
        own = dict(each.named_parameters(prefix, recurse=False))
        if not own:
            continue
        filled = each.to_empty(device="cpu", recurse=False)
        filled.reset_parameters()
        tensors |= {key: value.detach().half() for key, value in filled.named_parameters(prefix, recurse=False)}
        filled.to(device="meta")
    assert tensors.keys() == dict(module.named_parameters()).keys()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / f"{name}.safetensors", metadata={"format": "pt"})
    if isinstance(module, ModelMixin):
        module.save_config(folder)
    else:
        module.config.architectures = [type(module).__name__]
        module.config.save_pretrained(folder)


def main() -> None:
    """Make the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    making = verbs.add_parser("make", help="write the pipeline's folder")
    making.add_argument("folder", type=Path)
    making.add_argument("--side", type=int, default=64, help="of the latents")
    asked = parser.parse_args()
    print(make(asked.folder, side=asked.side))


if __name__ == "__main__":
    main()
