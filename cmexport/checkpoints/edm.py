"""Weights of NVlabs/edm and locuslab/ect networks: the architecture is read off names and shapes.

Names carry the picture sizes (`enc.32x32_block0`), buffers carry the resampling filter, so nothing has to be assumed:
a SongUNet has `dec.{R}x{R}_aux_conv`, a DhariwalUNet has `out_conv`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from cmexport.checkpoints.reading import strict_weights
from cmexport.checkpoints.settings import Family, Settings
from cmexport.errors import CheckpointError
from cmexport.networks.dhariwal_unet import DhariwalUnet, DhariwalUnetConfig
from cmexport.networks.meta import on_meta
from cmexport.networks.song_unet import SongUnet, SongUnetConfig

# ct_eval.py of locuslab/ect: sigma_min 0.003, renoise by sigma itself, no clamp.
ECT = Family("locuslab/ect", "cm", "0.25ln", sigma_min=0.003, renoise="ect", clamp=False)
EDM = Family("NVlabs/edm", "edm", "0.25ln", sigma_min=0.002, renoise="ect", clamp=False)

EdmConfig = SongUnetConfig | DhariwalUnetConfig
# Inputs that only training uses: augmentation labels are zero at inference, so their weights never matter.
_DROPPED = re.compile(r"^(map_augment\.weight|.*\.resample_filter)$")


@dataclass(frozen=True)
class EdmNetwork:
    """A built network, its channels, size and classes, and its description for the manifest."""

    network: nn.Module
    config: EdmConfig
    architecture: Mapping[str, object]


def build_edm_network(path: Path, tensors: Mapping[str, Tensor], settings: Settings) -> EdmNetwork:
    """Infer, build and fill a SongUNet or DhariwalUNet from weights named without the `model.` prefix.

    Raises:
        CheckpointError: the weights don't fit together, or hold NaN.
        UsageError: `--set` contradicts them.
    """
    try:
        config = _infer(tensors)
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"{path}: looks like an EDM network, but its weights don't fit together ({error})"
        ) from error
    settings.inferred("image_size", config.image_size)
    settings.inferred("in_channels", config.in_channels)
    settings.inferred("out_channels", config.out_channels)
    settings.inferred("num_res_blocks", config.num_blocks)
    if config.num_classes is not None:
        settings.inferred("num_classes", config.num_classes)
    if config.in_channels != config.out_channels:
        raise CheckpointError(f"{path}: takes {config.in_channels} channels and returns {config.out_channels}")
    try:
        network: nn.Module
        if isinstance(config, SongUnetConfig):
            network = on_meta(lambda: SongUnet(config))
        else:
            network = on_meta(lambda: DhariwalUnet(config))
    except (ValueError, IndexError, RuntimeError, ZeroDivisionError) as error:
        raise CheckpointError(f"{path}: looks like an EDM network, but can't be built ({error})") from error
    expected = {key: value.shape for key, value in network.state_dict().items()}
    kept = {key: tensor for key, tensor in tensors.items() if not _DROPPED.match(key)}
    checked = strict_weights(path, kept, expected)
    for name, module in network.named_modules():
        if getattr(module, "heads", 0):
            for leaf in ("weight", "bias"):
                key = f"{name}.qkv.{leaf}"
                checked[key] = thirds(checked[key], module.heads)
    network.load_state_dict(checked, strict=True, assign=True)
    name = "song_unet" if isinstance(config, SongUnetConfig) else "dhariwal_unet"
    return EdmNetwork(network.eval().requires_grad_(False), config, {"name": name, **asdict(config)})


def thirds(rows: Tensor, heads: int) -> Tensor:
    """Reorder qkv rows from EDM's "(head, channel, q|k|v)" to "(q|k|v, head, channel)"."""
    channels = rows.shape[0] // (3 * heads)
    split = rows.reshape(heads, channels, 3, *rows.shape[1:])
    return split.movedim(2, 0).reshape(rows.shape).contiguous()


def _infer(tensors: Mapping[str, Tensor]) -> EdmConfig:
    sizes = sorted({int(m[1]) for key in tensors if (m := re.match(r"enc\.(\d{1,5})x\1_", key))}, reverse=True)
    if not sizes or any(size != sizes[0] >> level for level, size in enumerate(sizes)):
        raise ValueError(f"picture sizes {sizes} don't halve")
    top = sizes[0]
    stem = tensors[f"enc.{top}x{top}_conv.weight"]
    num_blocks = len({m[1] for key in tensors if (m := re.match(rf"enc\.{top}x{top}_block(\d{{1,4}})\.", key))})
    widths = tuple(tensors[f"enc.{size}x{size}_block0.conv1.weight"].shape[0] for size in sizes)
    attention = tuple(
        size for size in sizes if any(key.startswith(f"enc.{size}x{size}_block") and ".qkv." in key for key in tensors)
    )
    embedding, noise = tensors["map_layer0.weight"].shape
    label = tensors.get("map_label.weight")
    classes = None if label is None or label.shape[1] == 0 else label.shape[1]
    common = {
        "image_size": top,
        "widths": widths,
        "num_blocks": num_blocks,
        "attention_resolutions": attention,
        "embedding_channels": embedding,
        "in_channels": stem.shape[1],
        "num_classes": classes,
        "resample_filter": _filter(tensors),
    }
    if "out_conv.weight" in tensors:
        out = tensors["out_conv.weight"].shape[0]
        return DhariwalUnetConfig(model_channels=noise, out_channels=out, **common)  # type: ignore[arg-type]
    names = " ".join(tensors)
    return SongUnetConfig(
        stem_channels=stem.shape[0],
        noise_channels=noise,
        out_channels=tensors[f"dec.{top}x{top}_aux_conv.weight"].shape[0],
        fourier="map_noise.freqs" in tensors,
        encoder="residual" if "aux_residual" in names else "skip" if "aux_skip" in names else "standard",
        decoder="skip" if len(re.findall(r"_aux_conv\.weight", names)) > 1 else "standard",
        **common,  # type: ignore[arg-type]
    )


def _filter(tensors: Mapping[str, Tensor]) -> tuple[float, ...]:
    """Return the one-dimensional filter behind the resampling buffers, scaled so that its first tap is 1."""
    buffers = [tensor for key, tensor in tensors.items() if key.endswith(".resample_filter")]
    if not buffers:
        return (1.0, 1.0)
    first = buffers[0].to(torch.float64)
    if any(b.shape != first.shape or not torch.equal(b.to(torch.float64), first) for b in buffers):
        raise ValueError("its resampling filters differ")
    if first.dim() != 4 or first.shape[2] != first.shape[3] or not 2 <= first.shape[2] <= 8 or first.shape[2] % 2:
        raise ValueError(f"a resampling filter of shape {tuple(first.shape)}")
    row = first[0, 0].sum(dim=0)
    taps = (row / row[0]).to(torch.float32)
    outer = torch.outer(taps, taps) / taps.sum() ** 2
    if not torch.isfinite(taps).all() or not torch.allclose(outer.to(torch.float64), first[0, 0], atol=1e-5):
        raise ValueError("its resampling filter is not the square of a row")
    return tuple(round(tap, 6) for tap in taps.tolist())
