"""`--set`: names, values, precedence."""

from pathlib import Path

import pytest

from cmexport.checkpoints import KNOWN_SETTINGS
from cmexport.checkpoints.settings import OPENAI, Default, parse_overrides, resolve_sampling, settings_for
from cmexport.errors import UsageError
from cmexport.model import Setting


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("image_size", "64", 64),
        ("sigma_max", "8e1", 80.0),
        ("sigma_min", "0", 0.0),
        ("clamp", "No", False),
        ("clamp", "TRUE", True),
        ("channel_mult", "1, 2,3", (1, 2, 3)),
        ("num_head_channels", "-1", -1),
        ("qkv_order", " head_major ", "head_major"),
        ("precond", "edm", "edm"),
    ],
)
def test_values(name, text, value):
    parsed = parse_overrides({name: text})[name]
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("image_size", "0"),
        ("image_size", "64.5"),
        ("image_size", ""),
        ("sigma_max", "nan"),
        ("sigma_max", "inf"),
        ("sigma_max", "-1"),
        ("sigma_min", "-0.1"),
        ("clamp", "maybe"),
        ("levels", "1"),
        ("qkv_order", "sideways"),
        ("channel_mult", "1,0"),
        ("num_head_channels", "-2"),
    ],
)
def test_bad_values_name_field_and_value(name, text):
    with pytest.raises(UsageError, match=f"--set {name}={text}"):
        parse_overrides({name: text})


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("sigma_mx", "sigma_max"), ("qkv", "qkv_order"), ("imagesize", "image_size"), ("cnoise", "c_noise")],
)
def test_unknown_names_suggest_the_nearest(typed, meant):
    with pytest.raises(UsageError, match=f"did you mean '{meant}'"):
        parse_overrides({typed: "1"})


def test_promised_names_are_known():
    promised = (
        "image_size num_heads num_head_channels qkv_order precond c_noise sigma_data sigma_min sigma_max rho levels"
    )
    assert set(promised.split()) | {"renoise", "clamp"} <= set(KNOWN_SETTINGS)


def test_precedence():
    preferred = {"levels": Default(18, "scheduler_config.json")}
    settings = settings_for(Path("cd_x.pt"), {"rho": "5"})
    constants = resolve_sampling(settings, OPENAI, preferred)
    assert (constants.noise.levels, constants.noise.rho, constants.noise.sigma_max) == (18, 5.0, 80.0)
    settings = settings_for(Path("cd_x.pt"), {"levels": "9"})
    assert resolve_sampling(settings, OPENAI, preferred).noise.levels == 9
    assert resolve_sampling(settings_for(Path("ct_imagenet64.pt"), {}), OPENAI).noise.levels == 201


def test_order_of_sigmas():
    with pytest.raises(UsageError, match="below sigma_max"):
        resolve_sampling(settings_for(Path("x.pt"), {"sigma_max": "0.001"}), OPENAI)


def test_fields_without_meaning_are_refused():
    settings = settings_for(Path("x.pt"), {"qkv_order": "thirds"})
    resolve_sampling(settings, OPENAI)
    with pytest.raises(UsageError, match="qkv_order"):
        settings.finish()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("32", 32),
        ("16x32", (16, 32)),
        ("32X32", 32),
        ("[16, 32]", (16, 32)),
        ("16,32", (16, 32)),
        ("(16, 32)", (16, 32)),
    ],
)
def test_sizes_are_read_as_people_write_them(text, value):
    assert parse_overrides({"image_size": text}) == {"image_size": value}


@pytest.mark.parametrize("text", ["0x8", "8x", "x", "8x8x8", "-8x8", "8.5x8", "9000x8"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(UsageError, match="image_size"):
        parse_overrides({"image_size": text})


@pytest.mark.parametrize("value", [(16, 32), 32, True, (0.5, 1, 2), None, "thirds"])
def test_the_option_of_a_setting_sets_it(value):
    name = {bool: "clamp", str: "qkv_order"}.get(type(value), "image_size")
    name = "channel_mult" if value == (0.5, 1, 2) else name
    setting = Setting(name, value, "guess", ambiguous=True)
    if value is not None:
        assert parse_overrides(dict([setting.option.removeprefix("--set ").split("=")])) == {name: value}
