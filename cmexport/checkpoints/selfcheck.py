"""Which reading of a checkpoint denoises a real picture best.

A wrong guess about time scaling, qkv order or preconditioning gives plausible but wrong pictures, and no shape or key
betrays it. Denoising does: y + s z goes in, and the right reading gives y back with the smallest error.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmexport.checkpoints.boundary import boundary_error
from cmexport.errors import CheckpointError, UsageError
from cmexport.files import require_file
from cmexport.model import ConsistencyModel
from cmexport.networks.adm_unet import QKV_ORDERS, AdmUnet, AdmUnetConfig, AttentionBlock
from cmexport.networks.ctm_unet import CtmUnet
from cmexport.networks.meta import on_meta
from cmexport.sampling.denoiser import denoise

# Not 1, where ln(sigma) = 0 makes two of the time scales equal. Far outside, every reading is equally good or bad.
PROBE_SIGMAS = (0.5, 2.0)
# On the demo model the wrong qkv order errs 1.15 times as much, a wrong time scale 1.6 times, whatever the labels.
CLOSE = 1.05
# Samples of the demo model have 0.45. A diffusion teacher asked for one step at sigma_max answers with nearly the
# same mean picture every time.
TEACHER_SPREAD = 0.15


@dataclass(frozen=True)
class Interpretation:
    """One reading: the fields in which readings differ, and its mean absolute denoising error on [-1, 1] pictures."""

    fields: Mapping[str, str]
    error: float
    chosen: bool

    def __str__(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.fields.items())


@dataclass(frozen=True)
class SelfCheck:
    """What trying other readings of a checkpoint found.

    Attributes:
        boundary: |f(x, sigma_min) - x|, 0 for a sound model.
        interpretations: all readings tried, best first.
        spread: standard deviation across one-step samples, averaged over pixels; real pictures have about 0.5.
        warnings: sentences for the user; empty when everything agrees.
    """

    boundary: float
    interpretations: tuple[Interpretation, ...]
    spread: float
    warnings: tuple[str, ...]

    @property
    def chosen(self) -> Interpretation:
        """The reading the model was loaded with."""
        return next(reading for reading in self.interpretations if reading.chosen)

    @property
    def margin(self) -> float:
        """Error of the second-best reading over the best: how clear the decision is."""
        if len(self.interpretations) < 2:
            return float("inf")
        return self.interpretations[1].error / max(self.interpretations[0].error, 1e-12)


def read_pictures(paths: Sequence[Path], model: ConsistencyModel) -> Tensor:
    """Pictures as (N, C, H, W) in [-1, 1], scaled to the model's size.

    Raises:
        CheckpointError: a file is no picture.
    """
    import numpy as np
    from PIL import Image, UnidentifiedImageError

    mode = "L" if model.channels == 1 else "RGB"
    pictures = []
    for path in paths:
        require_file(path, "a picture")
        try:
            with Image.open(path) as opened:
                array = np.asarray(opened.convert(mode), dtype=np.float32).copy()
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise CheckpointError(f"{path}: is no readable picture ({type(error).__name__})") from error
        tensor = torch.from_numpy(array).reshape(array.shape[0], array.shape[1], -1).permute(2, 0, 1)[None]
        size = (model.space.height, model.space.width)
        pictures.append(F.interpolate(tensor / 127.5 - 1.0, size=size, mode="bilinear", antialias=True))
    return torch.cat(pictures)


def check_on_pictures(
    model: ConsistencyModel, paths: Sequence[Path] | None = None, *, pictures: int = 4
) -> SelfCheck | None:
    """`self_check` on files, or on the first `pictures` of the package; None where pictures have other channels.

    Raises:
        CheckpointError: a file is no picture.
        UsageError: files for a model of latents, which has no other readings.
    """
    if model.codec is not None and paths:
        raise UsageError("--pictures: nothing is tried on pictures of a model that samples latents")
    if model.policy is not None and paths:
        raise UsageError("--pictures: this model plans actions")
    if model.codec is not None or model.policy is not None or model.channels not in (1, 3):
        return None
    return self_check(model, read_pictures(paths or default_pictures()[:pictures], model))


def self_check(model: ConsistencyModel, pictures: Tensor, labels: Tensor | None = None) -> SelfCheck:
    """Try every plausible reading of a model on pictures.

    Args:
        model: a loaded model; it is not changed.
        pictures: (N, C, H, W) in [-1, 1]; two to four suffice.
        labels: (N,) classes of the pictures; without them, a class-conditional model is given evenly spaced ones,
            which moves all readings alike (by 2 % on the demo model).
    """
    readings = []
    for fields, candidate in _candidates(model):
        readings.append(Interpretation(fields, _error(candidate, pictures, labels), candidate is model))
    # Of equal readings the one in use comes first. NaN, of a network that can't take a reading, comes last.
    ranked = tuple(sorted(readings, key=lambda r: (math.isnan(r.error), r.error, not r.chosen)))
    spread = _spread(model, 8 if len(pictures) > 1 else 2)
    check = SelfCheck(boundary_error(model), ranked, spread, ())
    return dataclasses.replace(check, warnings=_warnings(check))


def _candidates(model: ConsistencyModel) -> list[tuple[dict[str, str], ConsistencyModel]]:
    """Every reading with its fields; the model itself comes first."""
    readings = _scales_and_orders(model)
    network = model.network
    if not isinstance(network, AdmUnet) or not {"num_heads", "num_head_channels"} & {s.name for s in model.assumed}:
        return readings
    # Heads were guessed: other ways to divide the attention blocks, each beside the chosen scale and order.
    (base, _), *_ = readings
    own = network.config
    name = "num_heads" if own.num_head_channels == -1 else "num_head_channels"
    readings = [({**fields, name: str(getattr(own, name))}, reading) for fields, reading in readings]
    widths = {block.proj_out.in_channels for block in network.modules() if isinstance(block, AttentionBlock)}
    known = {tuple(own.heads_for(width) for width in sorted(widths))}
    for field, value in (
        *(("num_heads", n) for n in (1, 2, 4, 8)),
        ("num_head_channels", 64),
        ("num_head_channels", 32),
    ):
        if any(width % value for width in widths):
            continue
        width, count = (-1, value) if field == "num_heads" else (value, own.num_heads)
        config = dataclasses.replace(own, num_head_channels=width, num_heads=count)
        divided = tuple(config.heads_for(width) for width in sorted(widths))
        if divided not in known:
            known.add(divided)
            other = dataclasses.replace(model, network=_rebuilt(network, config))
            readings.append(({**base, field: str(value)}, other))
    return readings


def _scales_and_orders(model: ConsistencyModel) -> list[tuple[dict[str, str], ConsistencyModel]]:
    scales = [model.c_noise, *(name for name in ("250ln", "0.25ln", "sigma") if name != model.c_noise)]
    network = model.network
    if not isinstance(network, AdmUnet):
        return [
            ({"c_noise": scale}, model if scale == model.c_noise else dataclasses.replace(model, c_noise=scale))
            for scale in scales
        ]
    result: list[tuple[dict[str, str], ConsistencyModel]] = []
    for order in sorted(QKV_ORDERS, key=lambda name: name != network.config.qkv_order):
        reordered = network if order == network.config.qkv_order else _with_order(network, order)
        for scale in scales:
            same = reordered is network and scale == model.c_noise
            other = model if same else dataclasses.replace(model, network=reordered, c_noise=scale)
            result.append(({"c_noise": scale, "qkv_order": order}, other))
    if all(block.heads == 1 for block in network.modules() if hasattr(block, "heads") and hasattr(block, "head_major")):
        # With one head everywhere the two orders are the same network.
        result = [pair for pair in result if pair[0]["qkv_order"] == network.config.qkv_order]
    return result


def _with_order(network: AdmUnet, order: str) -> nn.Module:
    return _rebuilt(network, dataclasses.replace(network.config, qkv_order=order))


def _rebuilt(network: AdmUnet, config: AdmUnetConfig) -> AdmUnet:
    """Read the same weights with another configuration."""
    other = on_meta(lambda: type(network)(config))
    # assign=True shares the weights: a second reading costs no memory.
    other.load_state_dict(network.state_dict(), strict=True, assign=True)
    if isinstance(other, CtmUnet) and isinstance(network, CtmUnet):
        other.c_noise_target = network.c_noise_target
    return other.eval().requires_grad_(False)


def _error(model: ConsistencyModel, pictures: Tensor, labels: Tensor | None) -> float:
    count, choice = len(pictures), model.choice
    conditions = model.examples(count)
    if choice is not None and choice.count is not None:
        spread = torch.arange(count) * choice.count // count if labels is None else labels
        conditions |= {c.name: c.of(spread) for c in model.conditions if c.input is choice}
    noise = torch.randn(pictures.shape, generator=torch.Generator().manual_seed(0))
    errors = [
        (denoise(model, pictures + sigma * noise, sigma, **conditions) - pictures).abs().mean().item()
        for sigma in PROBE_SIGMAS
    ]
    return sum(errors) / len(errors)


def _spread(model: ConsistencyModel, samples: int) -> float:
    space = model.space
    noise = torch.randn(samples, space.channels, space.height, space.width, generator=torch.Generator().manual_seed(0))
    conditions = model.examples(samples)
    drawn = denoise(model, model.noise.sigma_max * noise, model.noise.sigma_max, **conditions)
    return drawn.clamp(-1, 1).std(dim=0).mean().item()


def _warnings(check: SelfCheck) -> tuple[str, ...]:
    warnings = []
    best, chosen = check.interpretations[0], check.chosen
    factor = chosen.error / max(best.error, 1e-12)
    if not best.chosen and factor >= CLOSE:
        differing = ", ".join(
            f"--set {name}={value}" for name, value in best.fields.items() if chosen.fields.get(name) != value
        )
        warnings.append(
            f"The chosen reading ({chosen}) denoises {factor:.2f} times worse than {best}; probably right: {differing}."
        )
    elif check.margin < CLOSE:
        equal = [r for r in check.interpretations if not r.chosen and r.error < CLOSE * max(best.error, 1e-12)]
        others = "; ".join(map(str, equal))
        warnings.append(f"Pictures can't tell the chosen reading ({chosen}) from {others}: no advice.")
    if check.spread < TEACHER_SPREAD:
        warnings.append(
            f"One-step samples hardly differ (spread {check.spread:.2f}, real pictures 0.5): "
            "this looks like a diffusion teacher or an untrained file, not a consistency model."
        )
    if not check.boundary <= 1e-6:
        warnings.append(f"f(x, sigma_min) differs from x by {check.boundary:.3g}.")
    return tuple(warnings)


def default_pictures() -> tuple[Path, ...]:
    """Four CIFAR-10 pictures that ship with the package (airplane, automobile, horse, ship; 32 x 32)."""
    return tuple(sorted(Path(str(files("cmexport.demo").joinpath("pictures"))).glob("*.jpg")))
