"""Consistency Policy (Prasad et al. 2024, arXiv:2405.07503): a workspace file becomes a model that plans actions.

Of the file the student's network and the actions' normalizer are taken; the encoder of observations stays with the
robot's own code, whose features are the graph's input `global_cond`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from cmexport.checkpoints.assembling import assemble
from cmexport.checkpoints.choosing import SETTING, UnknownWeightsError
from cmexport.checkpoints.reading import finite, strict_weights
from cmexport.checkpoints.settings import CONSISTENCY_POLICY, Default, Settings, resolve_sampling
from cmexport.checkpoints.workspace import Workspace
from cmexport.errors import CheckpointError
from cmexport.model import CheckpointSource, Condition, ConsistencyModel, NoiseRange, Policy, Space
from cmexport.networks.meta import on_meta
from cmexport.networks.policy_unet import PolicyUnet, PolicyUnetConfig, authors_shapes, from_authors
from cmexport.sampling.preconditioning import c_noise_at
from cmexport.signature import known

_SCHEDULER = ("policy", "noise_scheduler")
_ORIGIN = "cfg of the file"
_NETWORKS = ("model", "model_ema")
_NORMALIZER = "normalizer.params_dict.action."
_LEAST_SCALE = 1e-30
"""One over much less is no number in float32."""
_LEVEL = re.compile(r"down_modules\.(\d{1,3})\.")
_SCALINGS: Mapping[str, str] = {"boundary": "ctm_cm", "no_boundary": "ctm"}


def build_policy(workspace: Workspace, settings: Settings, wanted: str | None) -> ConsistencyModel:
    """Build the model of a workspace file.

    Args:
        workspace: the file.
        settings: collects the decisions.
        wanted: `--weights`: model, which the authors sample from, or model_ema (ema).

    Raises:
        CheckpointError: another policy, or weights that don't fit together.
        UnknownWeightsError: there are no such weights.
        UsageError: `--set` contradicts the file.
    """
    path = workspace.file.path
    _require_consistency(workspace)
    tensors = workspace.tensors(f"{_chosen(workspace, settings, wanted)}.")
    config = _config(workspace, tensors)
    horizon = _whole(workspace, "policy", "horizon")
    halvings = len(config.down_dims) - 1
    if horizon % 2**halvings:
        raise CheckpointError(f"{path}: a horizon of {horizon} can't be halved {halvings} times, as its network does")
    constants = resolve_sampling(settings, CONSISTENCY_POLICY, _stated(workspace))
    scale, offset = _normalizer(workspace, config.action_dim)
    chaining = settings.choose("chaining", Default("D", "none in the cfg"), *_chaining(workspace))
    policy = Policy(scale, offset, _levels(chaining, constants.noise))
    network = on_meta(lambda: PolicyUnet(config))
    state = from_authors(network, strict_weights(path, tensors, authors_shapes(network)))
    network.load_state_dict(state, strict=True, assign=True)
    network.c_noise_target = c_noise_at(constants.c_noise, constants.noise.sigma_min)
    moments = {name: workspace.said("policy", name) for name in ("n_obs_steps", "n_action_steps")}
    return assemble(
        network=network.eval().requires_grad_(False),
        architecture={"name": "policy_unet", **asdict(config), "horizon": horizon, **moments},
        space=Space(1, horizon, config.action_dim),
        classes=None,
        conditions=(Condition("global_cond", known.global_cond(1, config.observed_dim)),),
        constants=constants,
        source=CheckpointSource(
            path, "Consistency Policy (workspace)", workspace.file.sha256, workspace.file.size_bytes
        ),
        settings=settings.finish(),
        policy=policy,
    )


def _require_consistency(workspace: Workspace) -> None:
    path = workspace.file.path
    target, scheduler = workspace.said("policy", "_target_"), workspace.said(*_SCHEDULER, "_target_")
    if not str(scheduler).endswith("CTM_Scheduler"):
        raise CheckpointError(
            f"{path}: is a workspace of {str(target)[:100]} with {str(scheduler)[:100]}, which takes many steps;\n"
            "a Consistency Policy's (CTMPPUnetHybridImagePolicy with CTM_Scheduler) is read"
        )
    if workspace.said("policy", "obs_as_global_cond") is False:
        raise CheckpointError(f"{path}: this policy is conditioned by inpainting, not by global_cond; that is not read")


def _chosen(workspace: Workspace, settings: Settings, wanted: str | None) -> str:
    held = [name for name in _NETWORKS if any(key.startswith(f"{name}.") for key in workspace.described)]
    if not held:
        raise CheckpointError(f"{workspace.file.path}: state_dicts.model has no weights that start with 'model.'")
    name = {None: held[0], "ema": "model_ema"}.get(wanted, wanted)
    if name not in held:
        raise UnknownWeightsError(f"--weights {wanted}: {workspace.file.path} holds {', '.join(held)}")
    if len(held) > 1:
        origin = "what the authors sample from" if wanted is None else f"--weights {wanted}"
        settings.inferred(SETTING, name, origin)
    return str(name)


def _config(workspace: Workspace, tensors: Mapping[str, Tensor]) -> PolicyUnetConfig:
    """Read the network off its weights; the configuration says the groups, which they don't show."""
    path = workspace.file.path
    try:
        levels = len({m[1] for name in tensors if (m := _LEVEL.match(name))})
        first = tensors["down_modules.0.0.blocks.0.block.0.weight"]
        dims = tuple(tensors[f"down_modules.{i}.0.blocks.0.block.0.weight"].shape[0] for i in range(levels))
        step = tensors["diffusion_step_encoder.1.weight"].shape[1]
        encoder = tensors["down_modules.0.0.cond_encoder.1.weight"]
        config = PolicyUnetConfig(
            action_dim=first.shape[1],
            down_dims=dims,
            step_embed_dim=step,
            kernel_size=first.shape[2],
            groups=_whole(workspace, "policy", "n_groups", fallback=8),
            observed_dim=encoder.shape[1] - 2 * step,
            predict_scale=encoder.shape[0] == 2 * dims[0],
        )
    except (KeyError, IndexError) as error:
        raise CheckpointError(f"{path}: its weights are no network of Consistency Policy ({error})") from error
    uneven = [width for width in dims if width % config.groups] or ([dims[0]] if dims[0] % 8 else [])
    if config.observed_dim < 1 or step < 4 or step % 2 or config.kernel_size % 2 == 0 or uneven:
        raise CheckpointError(
            f"{path}: its weights don't fit together (embedding {step}, observation {config.observed_dim}, kernel "
            f"{config.kernel_size}, channels {', '.join(map(str, dims))} in {config.groups} groups)"
        )
    return config


def _whole(workspace: Workspace, *keys: str, fallback: int | None = None) -> int:
    value = workspace.said(*keys)
    if value is None and fallback is not None:
        return fallback
    if type(value) is not int or not 1 <= value <= 2**16:
        raise CheckpointError(f"{workspace.file.path}: its configuration says {'.'.join(keys)} = {str(value)[:40]}")
    return value


def _stated(workspace: Workspace) -> dict[str, Default]:
    """Return the constants that the configuration states, by our names."""
    said: dict[str, Any] = {
        name: workspace.said(*_SCHEDULER, key)
        for name, key in (
            ("sigma_min", "time_min"),
            ("sigma_max", "time_max"),
            ("sigma_data", "data_std"),
            ("rho", "rho"),
            ("levels", "bins"),
        )
    }
    for name, value in said.items():
        sound = type(value) in (int, float) and math.isfinite(value) and value > 0
        if value is not None and not (sound and (name != "levels" or (type(value) is int and value > 1))):
            raise CheckpointError(f"{workspace.file.path}: its scheduler's {name} is {str(value)[:40]}")
    scaling = workspace.said(*_SCHEDULER, "scaling")
    if scaling is not None and scaling not in _SCALINGS:
        raise CheckpointError(f"{workspace.file.path}: its scheduler's scaling is {str(scaling)[:40]}")
    said["precond"] = _SCALINGS.get(scaling) if scaling else None
    return {
        name: Default(float(value) if name in ("sigma_min", "sigma_max", "sigma_data", "rho") else value, _ORIGIN)
        for name, value in said.items()
        if value is not None
    }


def _normalizer(workspace: Workspace, action_dim: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    path = workspace.file.path
    found = workspace.tensors(_NORMALIZER)
    numbers = []
    for name in ("scale", "offset"):
        if name not in found:
            raise CheckpointError(f"{path}: has no {_NORMALIZER}{name}, so that its actions have no units")
        tensor = finite(path, f"{_NORMALIZER}{name}", found[name].to(torch.float64))
        if tensor.shape not in ((action_dim,), (1,)):
            shape = tuple(tensor.shape)
            raise CheckpointError(f"{path}: {_NORMALIZER}{name} has shape {shape}, actions have {action_dim} numbers")
        numbers.append(tuple(tensor.expand(action_dim).tolist()))
    if any(abs(number) < _LEAST_SCALE for number in numbers[0]):
        raise CheckpointError(f"{path}: {_NORMALIZER}scale is 0 somewhere, by which actions would be divided")
    return numbers[0], numbers[1]


def _chaining(workspace: Workspace) -> list[Default]:
    times = workspace.said("policy", "chaining_times")
    if not isinstance(times, list) or not times:
        return []
    if times[0] not in ("C", "D") or not all(type(t) in (int, float) and t > 0 for t in times[1:]):
        raise CheckpointError(f"{workspace.file.path}: its chaining_times are {str(times)[:80]}")
    return [Default(",".join(map(str, times)), _ORIGIN)]


def _levels(chaining: str, noise: NoiseRange) -> tuple[float, ...]:
    """Return the levels of `D,27,54` (as they are) or `C,27,54` (bins, which count down from sigma_max)."""
    mode, *times = chaining.split(",")
    if mode == "D":
        return tuple(float(time) for time in times)
    top, bottom = noise.sigma_max ** (1 / noise.rho), noise.sigma_min ** (1 / noise.rho)
    levels = ((top + float(time) / (noise.levels - 1) * (bottom - top)) ** noise.rho for time in times)
    return tuple(min(max(level, noise.sigma_min), noise.sigma_max) for level in levels)
