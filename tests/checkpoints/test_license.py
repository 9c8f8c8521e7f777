from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cmexport.checkpoints.license import license_of

ABSENT = (None, "no license in README.md or MODEL_CARD.md beside it")


@pytest.mark.parametrize(
    ("card", "found"),
    [
        ("---\nlicense: mit\ntags:\n- x\n---\n# Model", "mit"),
        ("---\r\ntags: [a]\r\nlicense: 'apache-2.0'  # said so\r\n---\r\n", "apache-2.0"),
        ("---\nlicense:\n- cc-by-4.0\n---\n", "cc-by-4.0"),
        ("---\nlicense: other\nlicense_name: our-own\n---\n", "our-own"),
        ("---\nlicense: other\n---\n", "other"),
        ("---\nlicense:\nlanguage: en\n---\n", None),
        ("# Model\nlicense: mit\n", None),
        ("---\ntitle: x\n---\nlicense: mit\n", None),
        ("---\nlicense: mit\n", None),
        ("", None),
    ],
)
def test_the_head_of_a_model_card_says_it(tmp_path: Path, card: str, found: str | None) -> None:
    (tmp_path / "README.md").write_bytes(card.encode())
    assert license_of(tmp_path / "cm.pt") == ((found, "README.md") if found else ABSENT)
    assert license_of(tmp_path)[0] == found


def test_a_safetensors_header_comes_first(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    for key in ("license", "modelspec.license"):
        save_file({"x": torch.zeros(2)}, tmp_path / "m.safetensors", metadata={key: "openrail"})
        assert license_of(tmp_path / "m.safetensors") == ("openrail", f"{key} in its header")
    save_file({"x": torch.zeros(2)}, tmp_path / "m.safetensors")
    assert license_of(tmp_path / "m.safetensors") == ("mit", "README.md")


def test_cards_that_cannot_be_read_say_nothing(tmp_path: Path) -> None:
    assert license_of(tmp_path / "cm.pt") == ABSENT
    os.mkfifo(tmp_path / "README.md")
    (tmp_path / "MODEL_CARD.md").write_bytes(b"---\nlicense: \xff\n---\n")
    assert license_of(tmp_path / "cm.pt") == ABSENT
