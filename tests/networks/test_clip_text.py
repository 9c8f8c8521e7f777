"""The text encoder against transformers' own class, with the same weights."""

from __future__ import annotations

import pytest
import torch

from cmexport.networks.clip_text import ACTIVATIONS, ClipTextEncoder, TextEncoderShape
from cmexport.networks.conditional_unet import GuidanceEmbedding


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_it_is_transformers(activation):
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3}
    config = CLIPTextConfig(**sizes, num_attention_heads=3, hidden_act=activation, eos_token_id=49)
    theirs = CLIPTextModel(config).eval()
    ours = ClipTextEncoder(TextEncoderShape(**sizes, num_attention_heads=3, hidden_act=activation)).eval()
    ours.load_state_dict({k.removeprefix("text_model."): v for k, v in theirs.state_dict().items()}, strict=True)
    tokens = torch.randint(0, 50, (2, 77), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens), theirs(tokens, return_dict=False)[0], rtol=0, atol=2e-6)
        # A word sees those before it only: the first ones are the same for every prompt that begins so.
        changed = tokens.clone()
        changed[:, 40:] = 0
        torch.testing.assert_close(ours(changed)[:, :40], ours(tokens)[:, :40], rtol=0, atol=1e-6)


def test_guidance_is_embedded_as_diffusers_does():
    from diffusers import LatentConsistencyModelPipeline

    scales = torch.tensor([1.0, 5.0, 8.5], dtype=torch.float64)
    theirs = LatentConsistencyModelPipeline.get_guidance_scale_embedding(None, scales - 1, 256, torch.float64)
    # Theirs has frequencies in float32, which 7,500 radians turn into 2e-5.
    torch.testing.assert_close(GuidanceEmbedding(256)(scales), theirs, rtol=0, atol=1e-4)
