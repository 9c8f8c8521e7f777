"""A text-to-image pipeline of Stable Diffusion's size with random weights, for time and memory.

    python -m benchmarks.sd_size make /tmp/sd15
    python -m benchmarks.sd_size make /tmp/sdxl --xl

Structure and parameters are those of LCM_Dreamshaper_v7: UNet 859,602,884 (with `cond_proj`), CLIP-L's text encoder
123,060,480, and AutoencoderTiny's decoder; or of LCM-SDXL: UNet 2,567,545,604 (with `cond_proj`), CLIP-L's and
OpenCLIP bigG's text encoders 123,060,480 and 694,659,840, and the tiny decoder. Weights are drawn module by module by
torch's own initialization, in half precision on disk; the tokenizer is the packaged emoji model's, whose 2,014 tokens
are the first of 49,408. Its pictures show nothing, so this is for seconds and bytes; how faithful files are is measured
on trained models.
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

TEXT_WORDS, GUIDANCE_WIDTH = 49_408, 256


def make(folder: Path, seed: int = 0, side: int | None = None, *, xl: bool = False) -> Path:
    """Write the pipeline's folder, 2 GB, or 7 GB of SDXL's size; one module's weights in float32 exist at a time.

    Args:
        folder: written to.
        seed: of the weights.
        side: of the latents, the model's own where none is given; pictures have 8 times that.
        xl: of SDXL's size.
    """
    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for part, (name, build) in (_xl_parts(side or 128) if xl else _parts(side or 64)).items():
        with torch.device("meta"):
            module = build()
        _write(module, folder / part, name)
    emoji = demo_checkpoint("emoji")
    for part in ("tokenizer", "scheduler"):
        shutil.copytree(emoji / part, folder / part, dirs_exist_ok=True)
    index = json.loads((emoji / "model_index.json").read_text())
    if xl:
        # The second tokenizer fills up with "!", whose number is 0.
        second = shutil.copytree(emoji / "tokenizer", folder / "tokenizer_2", dirs_exist_ok=True)
        settings = second / "tokenizer_config.json"
        settings.write_text(json.dumps(json.loads(settings.read_text()) | {"pad_token": "!"}))
        index |= {"_class_name": "StableDiffusionXLPipeline", "force_zeros_for_empty_prompt": True}
        index |= {"tokenizer_2": index["tokenizer"], "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"]}
        del index["requires_safety_checker"], index["safety_checker"]
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))
    return folder


def _text_config(width: int, layers: int, **fields: Any) -> Any:
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        vocab_size=TEXT_WORDS,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        bos_token_id=2012,
        eos_token_id=2013,
        **fields,
    )


def _parts(side: int) -> dict[str, tuple[str, Callable[[], Any]]]:
    """Return, of each part, its file's name and what builds it."""
    from diffusers import AutoencoderTiny, UNet2DConditionModel
    from transformers import CLIPTextModel

    return {
        # UNet2DConditionModel's own defaults are Stable Diffusion's.
        "unet": (
            "diffusion_pytorch_model",
            lambda: UNet2DConditionModel(sample_size=side, cross_attention_dim=768, time_cond_proj_dim=GUIDANCE_WIDTH),
        ),
        "text_encoder": ("model", lambda: CLIPTextModel(_text_config(768, 12, pad_token_id=2013))),
        "vae": ("diffusion_pytorch_model", AutoencoderTiny),
    }


def _xl_parts(side: int) -> dict[str, tuple[str, Callable[[], Any]]]:
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModelWithProjection

    return {
        **_parts(side),
        "unet": (
            "diffusion_pytorch_model",
            lambda: UNet2DConditionModel(
                sample_size=side,
                block_out_channels=(320, 640, 1280),
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
                transformer_layers_per_block=(1, 2, 10),
                attention_head_dim=(5, 10, 20),
                use_linear_projection=True,
                cross_attention_dim=2048,
                addition_embed_type="text_time",
                addition_time_embed_dim=256,
                projection_class_embeddings_input_dim=2816,
                time_cond_proj_dim=GUIDANCE_WIDTH,
            ),
        ),
        "text_encoder_2": (
            "model",
            lambda: CLIPTextModelWithProjection(
                _text_config(1280, 32, hidden_act="gelu", projection_dim=1280, pad_token_id=0)
            ),
        ),
    }


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
    making.add_argument("--side", type=int, help="of the latents")
    making.add_argument("--xl", action="store_true", help="of SDXL's size")
    asked = parser.parse_args()
    print(make(asked.folder, side=asked.side, xl=asked.xl))


if __name__ == "__main__":
    main()
