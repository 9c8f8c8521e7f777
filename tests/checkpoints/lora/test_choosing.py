"""`FILE[:scale]`, whatever characters a file's name has."""

from __future__ import annotations

from pathlib import Path

import pytest

from cmexport.checkpoints.lora import LoraChoice, lora_choices, lora_text


def here(name):
    return Path(name).absolute()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.safetensors", [("a.safetensors", 1.0)]),
        ("a.safetensors:0.8", [("a.safetensors", 0.8)]),
        ("a.safetensors:-0.5", [("a.safetensors", -0.5)]),
        ("a:b/c.safetensors:1e-2", [("a:b/c.safetensors", 0.01)]),
        ("a:b/c.safetensors", [("a:b/c.safetensors", 1.0)]),
        (r"C:\loras\a.safetensors", [(r"C:\loras\a.safetensors", 1.0)]),
        ("a.pt, b.pt:2", [("a.pt", 1.0), ("b.pt", 2.0)]),
    ],
)
def test_texts(text, expected):
    assert lora_choices(text) == tuple(LoraChoice(here(name), scale) for name, scale in expected)


def test_a_file_whose_name_ends_like_a_scale_is_that_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "style:2").touch()
    assert lora_choices("style:2") == (LoraChoice(tmp_path / "style:2", 1.0),)
    assert lora_choices("style:2:0.5") == (LoraChoice(tmp_path / "style:2", 0.5),)
    assert lora_choices("style:3") == (LoraChoice(tmp_path / "style", 3.0),)
    # What is recorded means the same again.
    for text in ("style:2", "style:2:0.1234567891234"):
        assert lora_choices(lora_text(lora_choices(text))) == lora_choices(text)


def test_the_home_folder():
    assert lora_choices("~/a.pt:2") == (LoraChoice(Path.home() / "a.pt", 2.0),)
