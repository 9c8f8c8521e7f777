"""Files with several sets of weights, built as their libraries write them; the oracle is the tensors that went in."""

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cmexport.checkpoints import load_checkpoint
from cmexport.errors import CheckpointError, UsageError

SET = {"num_head_channels": "32"}
RAW, AVERAGED = 1, 2
KEY = "out.2.weight"


@pytest.fixture
def states(adm):
    """Raw and averaged weights of one network, in the order of its modules."""
    return dict(adm(RAW).state_dict()), dict(adm(AVERAGED).state_dict())


def prefixed(prefix, state):
    return {prefix + key: value for key, value in state.items()}


def loaded(path, wanted=None):
    return load_checkpoint(path, SET, weights=wanted)


def chosen(model):
    return next((s for s in model.settings if s.name == "weights"), None)


def holds(model, state):
    mine = model.network.state_dict()
    return set(mine) == set(state) and all(torch.equal(mine[key], value) for key, value in state.items())


class LitEma:
    """ldm.modules.ema.LitEma: buffers with the dots of the names removed."""

    @staticmethod
    def of(state):
        return {name.replace(".", ""): value for name, value in state.items()}


COUNTERS = {"initted": torch.tensor(True), "step": torch.tensor(7)}
OLD_COUNTERS = {"initted": torch.tensor([1.0]), "step": torch.tensor([7])}

# Name, and what training code leaves of raw and averaged weights.
PAIRS = {
    "entries": lambda raw, ema: {"model": raw, "ema": ema, "step": 3},
    "k-diffusion": lambda raw, ema: {
        "model": prefixed("inner_model.", raw),
        "model_ema": prefixed("inner_model.", ema),
        "ema_sched": {"power": 0.75},
        "opt": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"params": [0]}]},
    },
    "timm": lambda raw, ema: {"state_dict": raw, "state_dict_ema": ema, "arch": "unet"},
    "entries in an entry": lambda raw, ema: {"models": {"net": raw, "net_ema": ema}},
    "target": lambda raw, ema: {"online_model": raw, "target_model": ema},
    "target entry": lambda raw, ema: {"model": raw, "target_params": ema},
    "shadow dictionary": lambda raw, ema: {"model": raw, "ema": {"decay": 0.999, "shadow": ema}},
    "lightning prefixes": lambda raw, ema: {"state_dict": {**prefixed("model.", raw), **prefixed("model_ema.", ema)}},
    "lightning averaging": lambda raw, ema: {
        "current_model_state": prefixed("net.", raw),
        "state_dict": prefixed("net.", ema),
        "averaging_state": {"n_averaged": torch.tensor(5)},
    },
    "lightning callback": lambda raw, ema: {
        "state_dict": prefixed("model.", raw),
        "callbacks": {"EMACallback": {"ema_state_dict": prefixed("model.", ema)}},
    },
    "litema": lambda raw, ema: {
        "state_dict": {
            **prefixed("model.diffusion_model.", raw),
            **prefixed("model_ema.diffusion_model", LitEma.of(ema)),
            "model_ema.decay": torch.tensor(0.9999),
            "model_ema.num_updates": torch.tensor(9, dtype=torch.int32),
        }
    },
    "mmcv": lambda raw, ema: {
        "state_dict": {
            **prefixed("unet.", raw),
            **{f"ema_unet_{name.replace('.', '_')}": value for name, value in ema.items()},
        }
    },
    "lucidrains": lambda raw, ema: {**COUNTERS, **prefixed("online_model.", raw), **prefixed("ema_model.", ema)},
    "old lucidrains": lambda raw, ema: {
        **OLD_COUNTERS,
        **prefixed("online_model.module.", raw),
        **prefixed("ema_model.module.", ema),
    },
    "lucidrains in a trainer": lambda raw, ema: {
        "model": raw,
        "ema": {**COUNTERS, **prefixed("online_model.", raw), **prefixed("ema_model.", ema)},
    },
    "torch_ema": lambda raw, ema: {
        "model": raw,
        "ema": {"decay": 0.99, "num_updates": 5, "shadow_params": list(ema.values()), "collected_params": None},
    },
    "torch_ema while evaluating": lambda raw, ema: {
        "model": raw,
        "ema": {"shadow_params": list(ema.values()), "collected_params": [v + 1 for v in raw.values()]},
    },
    "score_sde": lambda raw, ema: {
        "model": prefixed("module.", raw),
        "ema": {"decay": 0.9, "shadow_params": list(ema.values())},
        "optimizer": {"state": {}, "param_groups": []},
    },
    "list over a whole lightning module": lambda raw, ema: {
        "state_dict": {**prefixed("model.", raw), "loss.weight": torch.ones(2, 3)},
        "ema": {"shadow_params": [*ema.values(), torch.ones(2, 3)]},
    },
    "list by number": lambda raw, ema: {"model": raw, "ema_params": dict(enumerate(ema.values()))},
    "parameter list": lambda raw, ema: {
        "model": raw,
        "ema": {f"shadow_params.{i}": value for i, value in enumerate(ema.values())},
    },
    "nemo": lambda raw, ema: {
        "state_dict": prefixed("model.", raw),
        "optimizer_states": [{"state": {0: {"exp_avg": raw[KEY]}}, "param_groups": [], "ema": tuple(ema.values())}],
    },
}  # fmt: skip


@pytest.mark.parametrize("shape", PAIRS)
def test_the_average_is_preferred_and_said(shape, states, save):
    raw, ema = states
    path = save(PAIRS[shape](raw, ema))
    model = loaded(path)
    assert holds(model, ema)
    setting = chosen(model)
    assert setting is not None
    assert "preferred to" in setting.origin
    assert not setting.ambiguous
    # What the manifest keeps finds the same weights again.
    assert holds(loaded(path, setting.value), ema)


def test_the_raw_ones_by_name(states, save):
    raw, ema = states
    path = save({"state_dict": {**prefixed("model.", raw), **prefixed("model_ema.", ema)}}, "lightning.ckpt")
    for name in ("model", "model.", "state_dict.model"):
        assert holds(loaded(path, name), raw)
    for name in ("ema", "model_ema", "model_ema."):
        model = loaded(path, name)
        assert holds(model, ema)
        assert chosen(model).origin == f"--weights {name}"
    both = save({"model": raw, "ema": {"shadow_params": list(ema.values()), "collected_params": list(ema.values())}})
    assert holds(loaded(both, "model"), raw)
    assert holds(loaded(both, "collected_params"), ema)
    for name in ("teacher", "mod", "", "model.ema"):
        with pytest.raises(UsageError, match=r"there is no such set.*'state_dict\.model'.*'state_dict\.model_ema'"):
            loaded(path, name)


UNCERTAIN = {
    "two networks": lambda a, b: {"state_dict": {**prefixed("model.", a), **prefixed("net.", b)}},
    "student and teacher": lambda a, b: {"student": a, "teacher": b},
    "teacher's average": lambda a, b: {"student": a, "teacher": b, "teacher_ema": {k: v + 1 for k, v in b.items()}},
    "two averages": lambda a, b: {"model": a, "ema": {"0.999": b, "0.9999": {k: v + 1 for k, v in b.items()}}},
    "an average of one of two": lambda a, b: {"model": a, "net": b, "net_ema": {k: v + 1 for k, v in b.items()}},
    "an average that lacks a weight": lambda a, b: {
        "model": a,
        "ema": {k: v for k, v in b.items() if k != "out.2.bias"},
    },
    "deeper lists": lambda a, b: {"networks": [a, b]},
}


@pytest.mark.parametrize("shape", UNCERTAIN)
def test_uncertain_choices_are_refused_with_the_list(shape, states, save):
    content = UNCERTAIN[shape](*states)
    path = save(content)
    listing = r"holds \d complete sets of weights: '.*';\nsay which: --weights "
    with pytest.raises(CheckpointError, match=listing) as caught:
        loaded(path)
    listed = str(caught.value).split(": ")[2].split(";")[0].split(", ")
    for name in listed:
        if "lacks" not in shape or "model" in name:
            assert chosen(loaded(path, name.strip("'"))).value == name.strip("'")


def test_one_network_under_two_names_is_no_choice(states, save):
    raw, ema = states
    model = loaded(save({"state_dict": {**prefixed("model.", raw), **prefixed("alias.", raw)}}))
    assert holds(model, raw)
    assert chosen(model) is None
    # An average put in place for evaluation: the backup is what training goes on with.
    evaluating = {"model": ema, "ema": {"shadow_params": list(ema.values()), "collected_params": list(raw.values())}}
    assert holds(loaded(save(evaluating)), ema)


@pytest.mark.parametrize("damage", ["short", "shape", "sorted", "other names"])
def test_an_average_that_can_not_be_read_is_no_reason_for_the_raw_ones(damage, states, save):
    raw, ema = states
    values = list(ema.values())
    if damage == "short":
        values = values[:-3]
    elif damage == "shape":
        values[0], values[-1] = values[-1], values[0]
    elif damage == "sorted":
        raw = dict(sorted(raw.items()))
    average = {"shadow_params": values} if damage != "other names" else {f"w{k}": v for k, v in ema.items()}
    path = save({"model": raw, "ema": average})
    with pytest.raises(CheckpointError, match=r"holds averaged weights 'ema.*\n.*--weights model"):
        loaded(path)
    assert holds(loaded(path, "model"), raw)


def test_a_list_that_fits_in_part_is_not_completed_with_raw_weights(states, save):
    """Without the first weight every other still finds its place: nothing says that the first one was frozen."""
    raw, ema = states
    path = save({"model": raw, "ema": {"shadow_params": [v for k, v in ema.items() if k != "time_embed.0.weight"]}})
    with pytest.raises(CheckpointError, match=r"'model', 'ema\.shadow_params'"):
        loaded(path)
    with pytest.raises(CheckpointError, match=r"time_embed\.0\.weight"):
        loaded(path, "ema")
    assert holds(loaded(path, "model"), raw)


WRAPPERS = [
    *("module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "module.module.", "model._orig_mod.module."),
    *("_forward_module._orig_mod.", "_fsdp_wrapped_module.", "anything.of.mine."),
]


@pytest.mark.parametrize("prefix", WRAPPERS)
@pytest.mark.parametrize("counters", [{}, COUNTERS, OLD_COUNTERS, {"n_averaged": torch.tensor(4)}])
def test_wrappers_and_their_counters(prefix, counters, states, save):
    raw, _ = states
    model = loaded(save({**counters, **prefixed(prefix, raw)}))
    assert holds(model, raw)
    assert chosen(model) is None


def test_the_libraries_own_wrappers(adm, save):
    network = adm(AVERAGED).requires_grad_(True)
    averaged = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    averaged.update_parameters(adm(RAW))
    averaged.update_parameters(adm(RAW))
    expected = dict(averaged.module.state_dict())
    assert not torch.equal(expected[KEY], network.state_dict()[KEY])
    assert holds(loaded(save(averaged.state_dict())), expected)
    compiled = torch.compile(averaged)
    assert any(key.startswith("_orig_mod.module.") for key in compiled.state_dict())
    assert holds(loaded(save(compiled.state_dict())), expected)
    assert holds(loaded(save(torch.nn.DataParallel(averaged).state_dict())), expected)
    both = {"model": network.state_dict(), "swa": averaged.state_dict()}
    assert holds(loaded(save(both)), expected)


def test_parts_compiled_alone(adm, states, save):
    """torch.compile of single blocks, and activation checkpointing, put their names into the middle."""
    raw, _ = states
    parts = {key.replace("input_blocks.1.0.", "input_blocks.1.0._orig_mod."): value for key, value in raw.items()}
    assert set(parts) != set(raw)
    assert holds(loaded(save(parts)), raw)
    first = {key.replace("input_blocks.0.", "input_blocks.0._checkpoint_wrapped_module."): v for key, v in raw.items()}
    assert holds(loaded(save(prefixed("module.", first))), raw)


def test_weights_of_something_else_beside_the_only_set(states, save):
    raw, _ = states
    path = save({**prefixed("module.", raw), "head.weight": torch.zeros(3, 3)})
    with pytest.raises(CheckpointError, match=r"'module\.'.*head\.weight.*\n.*--weights module"):
        loaded(path)
    assert holds(loaded(path, "module"), raw)


def test_optimizers_hold_no_weights(states, save):
    """Moments have names and shapes of weights."""
    raw, ema = states
    content = {"model": raw, "optimizer": {"exp_avg": ema, "exp_avgs": list(ema.values()), "param_groups": []}}
    model = loaded(save(content))
    assert holds(model, raw)
    assert chosen(model) is None


def test_no_set_but_asked_for(states, save):
    raw, _ = states
    with pytest.raises(UsageError, match="there is no such set"):
        loaded(save(raw), "ema")
    assert holds(loaded(save({"model": raw}), "model"), raw)
