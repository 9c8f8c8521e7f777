"""Consistency Policy's workspace files, as `BaseWorkspace.save_checkpoint` writes them, at tiny sizes.

The names and shapes of the network are written out from the authors' `ctm_unet.py`; configurations are pickled as trees
of stand-ins with the module, name and state of OmegaConf's nodes.
"""

from __future__ import annotations

import pickle
import sys
import types
from contextlib import contextmanager
from itertools import pairwise

import torch


def shapes(action_dim=3, down_dims=(8, 16), embed=4, kernel=3, observed=5, predict_scale=True):
    """Shapes of the network's weights by name."""
    found = {}

    def layer(name, *shape):
        found[f"{name}.weight"], found[f"{name}.bias"] = shape, (shape[0],)

    def norm(name, channels):
        found[f"{name}.weight"] = found[f"{name}.bias"] = (channels,)

    def block(name, before, after):
        for index, width in enumerate((before, after)):
            layer(f"{name}.blocks.{index}.block.0", after, width, kernel)
            norm(f"{name}.blocks.{index}.block.1", after)
        layer(f"{name}.cond_encoder.1", 2 * after if predict_scale else after, 2 * embed + observed)
        if before != after:
            layer(f"{name}.residual_conv", after, before, 1)

    layer("diffusion_step_encoder.1", 4 * embed, embed)
    layer("diffusion_step_encoder.3", embed, 4 * embed)
    block("mid_modules.0", down_dims[-1], down_dims[-1])
    block("mid_modules.1", down_dims[-1], down_dims[-1])
    pairs = list(pairwise((action_dim, *down_dims)))
    for index, (before, after) in enumerate(reversed(pairs[1:])):
        block(f"up_modules.{index}.0", 2 * after, before)
        block(f"up_modules.{index}.1", before, before)
        layer(f"up_modules.{index}.2.conv", before, before, 4)
    for index, (before, after) in enumerate(pairs):
        block(f"down_modules.{index}.0", before, after)
        block(f"down_modules.{index}.1", after, after)
        if index < len(pairs) - 1:
            layer(f"down_modules.{index}.2.conv", after, after, 3)
    layer("final_conv.0.block.0", down_dims[0], down_dims[0], kernel)
    norm("final_conv.0.block.1", down_dims[0])
    layer("final_conv.1", action_dim, down_dims[0], 1)
    return found


def weights(seed=0, **sizes):
    """Random weights of about the size that training leaves."""
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for name, shape in shapes(**sizes).items():
        fan_in = max(1, int(torch.tensor(shape[1:]).prod())) if len(shape) > 1 else 4
        made[name] = torch.randn(shape, generator=generator) / fan_in**0.5
        if "block.1.weight" in name:
            made[name] = made[name] + 1.0
    return made


def config(**policy):
    """What of the authors' `configs/ctmp_square.yaml` a reader may look at, with some fields of the policy replaced."""
    scheduler = {
        "_target_": "consistency_policy.diffusion.CTM_Scheduler",
        "time_min": 0.02,
        "time_max": 80.0,
        "rho": 7.0,
        "bins": 80,
        "solver": "heun",
        "scaling": "boundary",
        "use_c_in": True,
        "data_std": 0.5,
        "time_sampler": "ctm",
        "clamp": True,
        "ode_steps_max": 1,
    } | policy.pop("scheduler", {})
    own = {
        "_target_": "consistency_policy.student.ctm_policy.CTMPPUnetHybridImagePolicy",
        "chaining_times": ["D", 27, 54],
        "cond_predict_scale": True,
        "diffusion_step_embed_dim": 4,
        "down_dims": [8, 16],
        "dropout_rate": 0.2,
        "edm": "???",
        "horizon": "${horizon}",
        "kernel_size": 3,
        "n_action_steps": 2,
        "n_groups": 4,
        "n_obs_steps": 2,
        "noise_scheduler": scheduler,
        "obs_as_global_cond": True,
        "teacher_path": None,
    }
    return {
        "_target_": "consistency_policy.student.ctm_workspace.CTMWorkspace",
        "horizon": 8,
        "policy": own | policy,
        "training": {"use_ema": True, "seed": 42},
    }


def payload(network, *, settings=None, normalizer=None, average=None):
    """What `save_checkpoint` saves: the policy's state dict with all that belongs to it."""
    action_dim = network["final_conv.1.bias"].numel()
    units = normalizer or {
        "scale": torch.linspace(0.5, 8.0, action_dim),
        "offset": torch.linspace(-0.3, 0.4, action_dim),
    }
    statistics = {f"input_stats.{name}": torch.zeros(action_dim) for name in ("min", "max", "mean", "std")}
    model = {
        "_dummy_variable": torch.zeros(0),
        "obs_encoder.obs_nets.agentview_image.nets.0.weight": torch.ones(2, 2),
        **{f"model.{name}": tensor for name, tensor in network.items()},
        **{f"model_ema.{name}": tensor for name, tensor in (average or network).items()},
        "mask_generator._dummy_variable": torch.zeros(0),
        **{f"normalizer.params_dict.action.{name}": t for name, t in (units | statistics).items()},
        "normalizer.params_dict.robot0_eef_pos.scale": torch.ones(3),
        **{f"teacher.{name}": tensor for name, tensor in network.items() if "cond_encoder" not in name},
    }
    optimizer = {
        "state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(2)}},
        "param_groups": [{"lr": 1e-4, "betas": (0.95, 0.999), "params": [0]}],
    }
    return {
        "cfg": config() if settings is None else settings,
        "state_dicts": {"model": model, "optimizer": optimizer},
        "pickles": {"global_step": pickle.dumps(7), "epoch": pickle.dumps(1), "_output_dir": pickle.dumps("out")},
    }


@contextmanager
def _pretended(names):
    """Classes of modules that need not be installed, while a file is written."""
    made = {}
    for module, name in names:
        parent = made.setdefault(module, types.ModuleType(module))
        made.setdefault(module.partition(".")[0], types.ModuleType(module.partition(".")[0]))
        setattr(parent, name, type(name, (), {"__module__": module}))
    before = {name: sys.modules.get(name) for name in made}
    sys.modules.update(made)
    try:
        yield {name: getattr(made[module], name) for module, name in names}
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


_NODES = (
    ("omegaconf.dictconfig", "DictConfig"),
    ("omegaconf.listconfig", "ListConfig"),
    ("omegaconf.nodes", "AnyNode"),
    ("omegaconf.base", "ContainerMetadata"),
    ("omegaconf.base", "Metadata"),
)


def _node(value, parent, key, kinds):
    container = isinstance(value, dict | list)
    kind = "DictConfig" if isinstance(value, dict) else "ListConfig" if isinstance(value, list) else "AnyNode"
    node = kinds[kind]()
    about = kinds["ContainerMetadata" if container else "Metadata"]()
    about.__dict__.update(optional=True, key=key, flags={}, object_type=type(value) if container else None)
    node.__dict__.update(_metadata=about, _parent=parent)
    if isinstance(value, dict):
        node._content = {name: _node(item, node, name, kinds) for name, item in value.items()}
    elif isinstance(value, list):
        node._content = [_node(item, node, index, kinds) for index, item in enumerate(value)]
    else:
        node._val = value
    return node


def save_workspace(path, content):
    """Save a payload with its configuration as OmegaConf's nodes."""
    with _pretended(_NODES) as kinds:
        torch.save(content | {"cfg": _node(content["cfg"], None, None, kinds)}, path)
    return path
