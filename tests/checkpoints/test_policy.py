"""Consistency Policy: workspace files read without running them, against the published formulas in float64."""

from __future__ import annotations

import collections
import math
import os
import pickle
import random
import sys
import types
import zipfile
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from support.policies import config, payload, save_workspace, weights

from cmexport.checkpoints import load_checkpoint
from cmexport.cli.options import ScheduleText
from cmexport.cli.requests import build_request
from cmexport.errors import CheckpointError, UsageError
from cmexport.graph.capture import capture
from cmexport.graph.evaluate import unclamped_picture
from cmexport.graph.rewrites import REWRITES
from cmexport.graph.rewriting import apply_rewrites
from cmexport.model import SampleRequest
from cmexport.sampling.methods import resolve

NETWORK = weights(1)
HORIZON, ACTION, OBSERVED = 8, 3, 5


def drawn(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


Z, LATER = drawn(2, 1, HORIZON, ACTION, seed=2), drawn(2, 2, 1, HORIZON, ACTION, seed=3)
OBSERVATION = drawn(2, OBSERVED, seed=4)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return save_workspace(tmp_path_factory.mktemp("policy") / "latest.ckpt", payload(NETWORK))


@pytest.fixture(scope="module")
def model(path):
    return load_checkpoint(path)


def published_network(state, groups, sample, time, stop, observation):
    """CTMConditionalUnet1D in float64 on (B, T, D), in words of its weights' names."""
    w = {name: tensor.double() for name, tensor in state.items()}

    def linear(name, x):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def mish(x):
        return x * torch.tanh(torch.log1p(torch.exp(-x.abs())) + x.clamp(min=0))

    def embedded(value):
        width = w["diffusion_step_encoder.1.weight"].shape[1]
        frequencies = [math.exp(-math.log(10000) * i / (width // 2 - 1)) for i in range(width // 2)]
        angles = [value * f for f in frequencies]
        row = torch.tensor([[*map(math.sin, angles), *map(math.cos, angles)]], dtype=torch.float64)
        return linear("diffusion_step_encoder.3", mish(linear("diffusion_step_encoder.1", row)))

    times = torch.cat([embedded(time), embedded(stop)], dim=1).expand(len(sample), -1)
    feature = torch.cat([times, observation.double()], dim=1)

    def convolve(name, x, **how):
        return F.conv1d(x, w[f"{name}.weight"], w[f"{name}.bias"], **how)

    def conv_block(name, x, groups):
        kernel = w[f"{name}.block.0.weight"].shape[2]
        x = convolve(f"{name}.block.0", x, padding=kernel // 2)
        return mish(F.group_norm(x, groups, w[f"{name}.block.1.weight"], w[f"{name}.block.1.bias"]))

    def block(name, x):
        out = conv_block(f"{name}.blocks.0", x, groups)
        embedding = linear(f"{name}.cond_encoder.1", mish(feature))
        channels = out.shape[1]
        if embedding.shape[1] == 2 * channels:
            pair = embedding.reshape(-1, 2, channels, 1)
            out = pair[:, 0] * out + pair[:, 1]
        else:
            out = out + embedding[:, :, None]
        out = conv_block(f"{name}.blocks.1", out, groups)
        skip = convolve(f"{name}.residual_conv", x) if f"{name}.residual_conv.weight" in w else x
        return out + skip

    x, kept = sample.double().transpose(1, 2), []
    levels = sum(name.endswith(".0.blocks.0.block.0.weight") and name.startswith("down_modules") for name in w)
    for level in range(levels):
        x = block(f"down_modules.{level}.1", block(f"down_modules.{level}.0", x))
        kept.append(x)
        if level < levels - 1:
            x = convolve(f"down_modules.{level}.2.conv", x, stride=2, padding=1)
    x = block("mid_modules.1", block("mid_modules.0", x))
    for level in range(levels - 1):
        x = torch.cat([x, kept.pop()], dim=1)
        x = block(f"up_modules.{level}.1", block(f"up_modules.{level}.0", x))
        name = f"up_modules.{level}.2.conv"
        x = F.conv_transpose1d(x, w[f"{name}.weight"], w[f"{name}.bias"], stride=2, padding=1)
    x = convolve("final_conv.1", conv_block("final_conv.0", x, 8))
    return x.transpose(1, 2)


def published_policy(state, content, levels, *, groups=4, low=0.02, d=0.5, boundary=True, finished=True):
    """`conditional_sample` and `unnormalize`: unit noise at 80, then out + t z at each further level; clamped.

    One that is not `finished` is neither clamped nor un-normalized.
    """

    def evaluated(x, t):
        below = t - low if boundary else t
        c_skip, c_in = d * d / (below**2 + d * d), 1 / math.sqrt(t * t + d * d)
        raw = published_network(state, groups, c_in * x, 250 * math.log(t), 250 * math.log(low), OBSERVATION)
        g = raw * below * d / math.sqrt(t * t + d * d) + c_skip * x
        jumped = x * low / t + g * (1 - low / t)
        return jumped.clamp(-1, 1) if finished else jumped

    out = evaluated(Z[:, 0].double(), levels[0])
    for index, t in enumerate(levels[1:]):
        out = evaluated(out + t * LATER[index, :, 0].double(), t)
    if not finished:
        return out
    units = content["state_dicts"]["model"]
    offset = units["normalizer.params_dict.action.offset"].double()
    return (out - offset) / units["normalizer.params_dict.action.scale"].double()


def sampled(model, levels):
    sampler = resolve(model, SampleRequest(sigmas=levels, batch=2))
    with torch.no_grad():
        later = {"renoise": LATER[: len(levels) - 1]} if len(levels) > 1 else {}
        return sampler.module()(noise=Z, global_cond=OBSERVATION, **later)[:, 0]


@pytest.mark.parametrize("levels", [(80.0,), (80.0, 27.0), (80.0, 27.0, 54.0)])
def test_actions_are_those_of_the_formulas(levels, model):
    got, expected = sampled(model, levels), published_policy(NETWORK, payload(NETWORK), levels)
    assert got.shape == (2, HORIZON, ACTION)
    assert (got - expected).abs().max() < 1e-4
    # Neither all clamped nor all alike, or the comparison would be of constants.
    assert got.std(dim=0).min() > 1e-3


@pytest.mark.parametrize(
    ("sizes", "own", "how"),
    [
        ({"predict_scale": False}, {"cond_predict_scale": False}, {}),
        ({"down_dims": (8, 8, 16), "kernel": 5}, {"n_groups": 8}, {"groups": 8}),
        ({}, {"scheduler": {"scaling": "no_boundary", "data_std": 0.7}}, {"boundary": False, "d": 0.7}),
        ({}, {"scheduler": {"time_min": 0.05}}, {"low": 0.05}),
    ],
    ids=["shift", "three_levels", "edm_inner", "time_min"],
)
def test_other_configurations(sizes, own, how, tmp_path):
    network = weights(5, **sizes)
    content = payload(network, settings=config(**own))
    model = load_checkpoint(save_workspace(tmp_path / "p.ckpt", content))
    assert (sampled(model, (80.0, 27.0)) - published_policy(network, content, (80.0, 27.0), **how)).abs().max() < 1e-4


def test_the_graph_takes_noise_and_an_observation_and_holds_no_times(model):
    sampler = resolve(model, SampleRequest(sigmas=(80.0, 27.0, 54.0), batch=2))
    rewritten = apply_rewrites(capture(sampler), REWRITES)
    with torch.no_grad():
        got = rewritten.program.module()(noise=Z, renoise=LATER, global_cond=OBSERVATION)[:, 0]
    expected = published_policy(NETWORK, payload(NETWORK), (80.0, 27.0, 54.0))
    assert (got - expected).abs().max() < 1e-4
    assert [(i.name, i.shape, i.dtype) for i in sampler.signature.inputs] == [
        ("noise", (2, 1, HORIZON, ACTION), "float32"),
        ("renoise", (2, 2, 1, HORIZON, ACTION), "float32"),
        ("global_cond", (2, OBSERVED), "float32"),
    ]
    assert not [name for name in rewritten.program.state_dict if "step_encoder" in name or "times" in name]


def test_what_is_measured_before_the_clamp_is_not_in_the_demonstrations_units(tmp_path):
    """Rewrites and sensitivities look at samples that nothing was done to yet; most leave [-1, 1]."""
    network = NETWORK | {"final_conv.1.weight": 40 * NETWORK["final_conv.1.weight"]}
    sampler = resolve(load_checkpoint(save_workspace(tmp_path / "p.ckpt", payload(network))), SampleRequest(batch=2))
    module = capture(sampler).program.module()
    got = unclamped_picture(module, {"noise": Z, "global_cond": OBSERVATION})[:, 0]
    expected = published_policy(network, payload(network), (80.0,), finished=False)
    assert expected.abs().median() > 1
    assert (got - expected).abs().max() < 1e-4


def test_the_output_has_the_units_of_the_demonstrations(model):
    output = resolve(model).signature.output
    assert (output.name, output.shape) == ("actions", (1, 1, HORIZON, ACTION))
    scale, offset = torch.linspace(0.5, 8.0, 3).tolist(), torch.linspace(-0.3, 0.4, 3).tolist()
    for (low, high), s, o in zip(output.columns, scale, offset, strict=True):
        assert (low, high) == pytest.approx(((-1 - o) / s, (1 - o) / s))
    ends = torch.tensor(output.columns).T.reshape(2, 1, 1, 3).numpy()
    assert output.as_pictures(ends)[0] == pytest.approx(-1.0)
    assert output.as_pictures(ends)[1] == pytest.approx(1.0)
    assert output.from_pictures(output.as_pictures(ends)) == pytest.approx(ends)


def test_steps_are_the_policys_own_chain(model):
    def levels(steps):
        text = ScheduleText(steps, None, None, None, None)
        return build_request(model, text, None, 1, "float", task="generate").sigmas

    assert levels(3) == (80.0, 27.0, 54.0)
    assert levels(2) == (80.0, 27.0)
    with pytest.raises(UsageError, match="takes 1 to 3"):
        levels(4)


def test_bins_of_mode_c_are_karras_levels(path):
    model = load_checkpoint(path, {"chaining": "C,27,54"})
    expected = [(80 ** (1 / 7) + b / 79 * (0.02 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for b in (27, 54)]
    assert model.policy.chain == pytest.approx(expected)


def test_settings_say_where_they_come_from(model):
    said = {s.name: (s.value, s.origin) for s in model.settings}
    assert said["sigma_min"] == (0.02, "cfg of the file")
    assert said["chaining"] == ("D,27,54", "cfg of the file")
    assert said["precond"] == ("ctm_cm", "cfg of the file")
    assert said["weights"] == ("model", "what the authors sample from")
    assert not model.assumed


@pytest.mark.parametrize(("wanted", "average"), [("model_ema", True), ("ema", True), ("model", False), (None, False)])
def test_averaged_weights_are_taken_where_they_are_named(wanted, average, tmp_path):
    other = weights(9)
    content = payload(NETWORK, average=other)
    model = load_checkpoint(save_workspace(tmp_path / "p.ckpt", content), weights=wanted)
    expected = published_policy(other if average else NETWORK, content, (80.0,))
    assert (sampled(model, (80.0,)) - expected).abs().max() < 1e-4


def test_a_file_that_dill_and_omegaconf_wrote():
    """`policy.ckpt` was saved by torch 2.13 with dill 0.4.1 and omegaconf 2.4.0, as BaseWorkspace does."""
    model = load_checkpoint(Path(__file__).parent / "files" / "policy.ckpt")
    assert (model.space.height, model.space.width, model.policy.chain) == (16, 3, (27.0, 54.0))
    said = {s.name: (s.value, s.origin) for s in model.settings}
    assert said["sigma_min"] == (0.02, "cfg of the file")
    assert said["levels"] == (80, "cfg of the file")
    assert (model.architecture["n_action_steps"], model.architecture["down_dims"]) == (2, (8, 8))
    assert model.policy.scale == pytest.approx((0.5, 4.25, 8.0))


def changed(**parts):
    content = payload(NETWORK)
    content["state_dicts"]["model"].update(parts)
    return content


def without(name):
    content = payload(NETWORK)
    del content["state_dicts"]["model"][name]
    return content


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (without("model.mid_modules.0.cond_encoder.1.weight"), "mid_modules.0.cond_encoder.1.weight"),
        (without("normalizer.params_dict.action.scale"), "no normalizer.params_dict.action.scale"),
        (changed(**{"model.stranger": torch.ones(1)}), "1 weight more than the network has: stranger"),
        (changed(**{"model.final_conv.1.bias": torch.full((3,), math.nan)}), "NaN"),
        (changed(**{"model.final_conv.1.bias": torch.ones(4)}), r"has shape \(4,\)"),
        (changed(**{"model.final_conv.1.bias": torch.ones(3, dtype=torch.int64)}), "no floating-point tensor"),
        (changed(**{"normalizer.params_dict.action.scale": torch.zeros(3)}), "scale is 0"),
        (changed(**{"normalizer.params_dict.action.offset": torch.zeros(2)}), "actions have 3 numbers"),
        (payload(NETWORK, settings=config(horizon=7)), "can't be halved 1 times"),
        (payload(NETWORK, settings=config(horizon="${eval:'2*8'}")), "an expression"),
        (payload(NETWORK, settings=config(n_groups=5)), "don't fit together"),
        (payload(NETWORK, settings=config(obs_as_global_cond=False)), "inpainting"),
        (payload(NETWORK, settings=config(scheduler={"scaling": "other"})), "scaling is other"),
        (payload(NETWORK, settings=config(scheduler={"time_min": -1.0})), "sigma_min is -1.0"),
        (payload(NETWORK, settings=config(chaining_times=["X", 3])), "chaining_times"),
        (
            payload(NETWORK, settings=config(scheduler={"_target_": "diffusers.DDPMScheduler"})),
            "DDPMScheduler, which takes many steps",
        ),
    ],
)
def test_workspaces_that_are_none_of_consistency_policy(content, said, tmp_path):
    with pytest.raises(CheckpointError, match=said):
        load_checkpoint(save_workspace(tmp_path / "p.ckpt", content))


class _Runs:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("function", "arguments", "named"),
    [
        (eval, ("1/0",), "eval"),
        (getattr, (str, "upper"), "getattr"),
        (os.system, ("touch /tmp/ran",), "system"),
        (collections.namedtuple, ("a", "b"), "namedtuple"),
    ],
    ids=["eval", "getattr", "system", "function"],
)
@pytest.mark.parametrize("where", ["cfg", "state_dicts"])
def test_files_with_code_are_refused(where, function, arguments, named, tmp_path):
    content = payload(NETWORK)
    if where == "cfg":
        content["cfg"]["policy"]["horizon"] = _Runs(function, *arguments)
    else:
        content["state_dicts"]["extra"] = _Runs(function, *arguments)
    with pytest.raises(CheckpointError, match=rf"refused, because opening it would import .*{named}.*nothing was run"):
        load_checkpoint(save_workspace(tmp_path / "p.ckpt", content))


@pytest.mark.parametrize("name", ["_create_code", "_create_function", "_create_type", "_eval_repr"])
def test_what_dill_makes_of_code_is_refused(name, tmp_path, monkeypatch):
    made = types.ModuleType("dill._dill")
    setattr(made, name, type(name, (), {"__module__": "dill._dill"}))
    monkeypatch.setitem(sys.modules, "dill", types.ModuleType("dill"))
    monkeypatch.setitem(sys.modules, "dill._dill", made)
    content = payload(NETWORK)
    content["cfg"]["policy"]["horizon"] = _Runs(getattr(made, name), b"code")
    with pytest.raises(CheckpointError, match=rf"would import dill\._dill\.{name}.*nothing was run"):
        load_checkpoint(save_workspace(tmp_path / "p.ckpt", content))


@pytest.mark.parametrize("again", [2, 1], ids=["wide", "deep"])
def test_configurations_that_unfold_without_end_are_refused(again, tmp_path):
    nested = [0]
    for _ in range(28 if again == 2 else 200):
        nested = [nested] * again
    content = payload(NETWORK) | {"cfg": {"policy": nested}}
    torch.save(content, tmp_path / "p.ckpt")
    with pytest.raises(CheckpointError, match="nested too deeply"):
        load_checkpoint(tmp_path / "p.ckpt")


def test_pickles_inside_the_file_are_not_opened(tmp_path):
    content = payload(NETWORK)
    content["pickles"]["epoch"] = pickle.dumps(_Runs(eval, "1/0"))
    assert load_checkpoint(save_workspace(tmp_path / "p.ckpt", content)).policy is not None


@pytest.mark.parametrize("kept", [0.3, 0.9, 0.999])
def test_truncated(kept, path, tmp_path):
    short = tmp_path / "short.ckpt"
    short.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(CheckpointError):
        load_checkpoint(short)


def test_damaged_descriptions_are_refused_or_read(path, tmp_path):
    """Bytes of the pickle changed at random, with a checksum that agrees: refused in words, or harmless."""
    rng, file, outcomes = random.Random(0), tmp_path / "damaged.ckpt", []
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    (description,) = (name for name in records if name.endswith("data.pkl"))
    for _ in range(100):
        changed_bytes = bytearray(records[description])
        for _ in range(rng.choice([1, 1, 4])):
            changed_bytes[rng.randrange(len(changed_bytes))] = rng.randrange(256)
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name, data in (records | {description: bytes(changed_bytes)}).items():
                archive.writestr(name, data)
        try:
            load_checkpoint(file)
            outcomes.append("")
        except (CheckpointError, UsageError) as error:
            outcomes.append(str(error))
    assert "" in outcomes
    assert any(outcomes)
    assert all(len(said.splitlines()) <= 3 for said in outcomes)


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (SampleRequest(sigmas=(80.0, 27.0, 27.0)), "comes twice"),
        (SampleRequest(sigmas=(80.0, 0.01)), "above sigma_min 0.02"),
        (SampleRequest(sampler="gamma"), "a policy plans actions by its own steps"),
        (SampleRequest(output="uint8"), "gives actions, no pictures"),
        (SampleRequest(task="inpaint", sigmas=(80.0, 2.0)), "gives actions, no pictures"),
        (SampleRequest(output_transform="heights"), "this model gives actions"),
    ],
)
def test_requests_that_mean_nothing_for_a_policy(request_, said, model):
    with pytest.raises(UsageError, match=said):
        resolve(model, request_)
