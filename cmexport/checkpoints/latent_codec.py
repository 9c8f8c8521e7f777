"""What decodes latents: diffusers' autoencoders out of a pipeline's parts, filled and tried."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cmexport.checkpoints.diffusers_networks import filled
from cmexport.checkpoints.latent_parts import Part
from cmexport.checkpoints.plausible import library_network
from cmexport.checkpoints.settings import Default, Settings
from cmexport.errors import CheckpointError
from cmexport.model import Codec, Setting


class _KlDecoder(nn.Module):
    """AutoencoderKL's way from latents to pictures."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.post_quant_conv, self.decoder = vae.post_quant_conv, vae.decoder

    def forward(self, z: Tensor) -> Tensor:
        z = z if self.post_quant_conv is None else self.post_quant_conv(z)
        result: Tensor = self.decoder(z)
        return result


class _KlEncoder(nn.Module):
    """AutoencoderKL's way from pictures to the mean of their latents."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.quant_conv, self.encoder = vae.quant_conv, vae.encoder

    def forward(self, picture: Tensor) -> Tensor:
        moments = self.encoder(picture)
        moments = moments if self.quant_conv is None else self.quant_conv(moments)
        mean: Tensor = moments.chunk(2, dim=1)[0]
        return mean


ENDS: Mapping[str, Callable[[Any], tuple[nn.Module, nn.Module]]] = {
    "AutoencoderKL": lambda vae: (_KlDecoder(vae), _KlEncoder(vae)),
    "AutoencoderTiny": lambda vae: (vae.decoder, vae.encoder),
}
"""Decoder and encoder of each autoencoder, by its class."""


def codec_of(part: Part, settings: Settings, channels: int) -> Codec:
    """Build an autoencoder, fill and try it.

    Args:
        part: the pipeline's own, or what `--decoder` names.
        settings: collects the decisions.
        channels: of the latents that the network paints.

    Raises:
        CheckpointError: another kind, one that doesn't fit the network, or whose decoder can't be evaluated.
    """
    path, asked = part.where, str(settings.said("decoder") or "")
    kind = str(part.config.get("_class_name"))
    if kind not in ENDS:
        raise CheckpointError(f"{path}: is a {kind[:80]}; known are {' and '.join(ENDS)}")
    if asked and kind != ("AutoencoderKL" if asked == "kl" else "AutoencoderTiny"):
        raise CheckpointError(f"{path}: is an {kind}, not what --decoder {asked.partition(':')[0]} means")
    settings.choose("decoder", Default(kind, part.origin))
    vae: Any = library_network(kind, path, part.config)
    if vae.config.latent_channels != channels:
        raise CheckpointError(
            f"{path}: latent_channels is {vae.config.latent_channels}, but the UNet paints {channels} channels"
        )
    scale = vae.config.scaling_factor
    if not (isinstance(scale, int | float) and 1e-6 < abs(scale) < 1e6):
        raise CheckpointError(f"{path}: scaling_factor is {str(scale)[:40]}")
    if getattr(vae.config, "shift_factor", None):
        remark = f"{path}: shift_factor {str(vae.config.shift_factor)[:40]} is not used: diffusers' pipelines of this "
        settings.resolved["shift_factor"] = Setting(
            "shift_factor", 0.0, "as in the pipeline's code", remark=remark + "kind divide by scaling_factor alone"
        )
    decoder, encoder = ENDS[kind](filled(vae, part.weights, part.read()))
    levels = vae.config.block_out_channels if kind == "AutoencoderKL" else vae.config.decoder_block_out_channels
    codec = Codec(decoder, vae.config.out_channels, 2 ** (len(levels) - 1), float(scale), encoder=encoder)
    _try_codec(path, codec, channels)
    return codec


def _try_codec(path: Path, codec: Codec, channels: int) -> None:
    """Decode a small latent: what `require_boundary` is to a network.

    Raises:
        CheckpointError: it can't be decoded, or the picture has another size.
    """
    # Two pixels: GroupNorm takes no group of a single number.
    try:
        with torch.no_grad():
            shape = tuple(codec.decode(torch.zeros(1, channels, 2, 2)).shape)
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as problem:
        reason = str(problem).strip().splitlines() or [type(problem).__name__]
        raise CheckpointError(f"{path}: its decoder can't be evaluated: {reason[0][:200]}") from problem
    if shape != (1, codec.channels, 2 * codec.factor, 2 * codec.factor):
        raise CheckpointError(f"{path}: decodes latents of 2x2 to {shape[-2]}x{shape[-1]} pixels")
