"""Denoisers as strangers export them: OpenAI's UNet with its preconditioning, by `torch.onnx.export` with its defaults.

Attention is written as `QKVAttention` and `QKVAttentionLegacy` of openai/consistency_models' `cm/unet.py` have it.
"""

from __future__ import annotations

import math

import onnx
import torch
from support.networks import random_weights
from torch import nn

from cmexport.networks.adm_unet import AdmUnet, AdmUnetConfig, AttentionBlock


class OpenaiAttention(nn.Module):
    """Attention block of cm/unet.py around the weights of ours."""

    def __init__(self, block: AttentionBlock, legacy: bool) -> None:
        super().__init__()
        self.norm, self.qkv, self.proj_out, self.heads = block.norm, block.qkv, block.proj_out, block.heads
        self.legacy = legacy

    def forward(self, x):
        n, c, height, width = x.shape
        qkv = self.qkv(self.norm(x)).view(n, -1, height * width)
        per_head = c // self.heads
        scale = 1 / math.sqrt(math.sqrt(per_head))
        if self.legacy:
            q, k, v = qkv.reshape(n * self.heads, per_head * 3, -1).split(per_head, dim=1)
        else:
            q, k, v = (part.reshape(n * self.heads, per_head, -1) for part in qkv.chunk(3, dim=1))
        weight = torch.softmax(torch.einsum("bct,bcs->bts", q * scale, k * scale), dim=-1)
        a = torch.einsum("bts,bcs->bct", weight, v).reshape(n, -1, height, width)
        return x + self.proj_out(a)


class Denoiser(nn.Module):
    """f(noisy, sigma, condition) with the boundary condition of consistency models, clipped, in float32."""

    def __init__(self, network: AdmUnet, legacy: bool, sigma_min: float, sigma_data: float) -> None:
        super().__init__()
        self.network, self.sigma_min, self.sigma_data = network, sigma_min, sigma_data
        for parent in list(network.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, AttentionBlock):
                    setattr(parent, name, OpenaiAttention(child, legacy))

    def forward(self, noisy, sigma, condition):
        above = sigma - self.sigma_min
        c_skip = self.sigma_data**2 / (above**2 + self.sigma_data**2)
        c_out = above * self.sigma_data / (sigma**2 + self.sigma_data**2) ** 0.5
        c_in = 1 / (sigma**2 + self.sigma_data**2) ** 0.5
        answer = self.network(c_in[:, None, None, None] * noisy, 250.0 * torch.log(sigma), condition)
        return (c_out[:, None, None, None] * answer + c_skip[:, None, None, None] * noisy).clamp(-1, 1)


def export_denoiser(path, *, classes=None, legacy=False, sigma_min=0.01, sigma_data=0.4, facts=()):
    """Write one: 16 x 16 pixels of one channel, heads 16 wide, attention at half the size; `facts` are metadata."""
    config = AdmUnetConfig(
        image_size=16,
        model_channels=32,
        channel_mult=(1, 2),
        num_res_blocks=1,
        attention_downsampling=(2,),
        in_channels=1,
        out_channels=1,
        num_classes=classes,
        scalar_label=classes is None,
        num_head_channels=16,
        qkv_order="head_major" if legacy else "thirds",
    )
    module = Denoiser(random_weights(AdmUnet(config), 3), legacy, sigma_min, sigma_data).eval()
    name, condition = ("difficulty", torch.rand(2)) if classes is None else ("label", torch.arange(2))
    program = torch.onnx.export(
        module,
        (torch.randn(2, 1, 16, 16), torch.tensor([3.0, 1.0]), condition),
        dynamo=True,
        opset_version=18,
        input_names=["noisy", "sigma", name],
        output_names=["denoised"],
        dynamic_shapes={n: {0: "batch"} for n in ("noisy", "sigma", "condition")},
        verbose=False,
    )
    model = program.model_proto
    onnx.helper.set_model_props(model, dict(facts))
    onnx.save(model, path)
    return path
