"""Names of classes and prompts as identifiers: legal, unique, and still readable."""

from __future__ import annotations

import keyword
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmexport.kits.identifiers import STYLES, identifier, identifiers, words_of


@pytest.mark.parametrize(
    ("text", "snake", "pascal", "camel", "screaming"),
    [
        ("cm_cifar10", "cm_cifar10", "CmCifar10", "cmCifar10", "CM_CIFAR10"),
        ("crying cat", "crying_cat", "CryingCat", "cryingCat", "CRYING_CAT"),
        ("tench, Tinca tinca", "tench_tinca_tinca", "TenchTincaTinca", "tenchTincaTinca", "TENCH_TINCA_TINCA"),
        ("Café au lait", "cafe_au_lait", "CafeAuLait", "cafeAuLait", "CAFE_AU_LAIT"),
        ("3 apples", "item_3_apples", "Item3Apples", "item3Apples", "ITEM_3_APPLES"),
        ("class", "class_", "Class_", "class_", "CLASS_"),
        ("😿", "item", "Item", "item", "ITEM"),
        ("lcmEmoji", "lcm_emoji", "LcmEmoji", "lcmEmoji", "LCM_EMOJI"),
    ],
)
def test_each_style(text: str, snake: str, pascal: str, camel: str, screaming: str) -> None:
    expected = {"snake": snake, "pascal": pascal, "camel": camel, "screaming": screaming}
    assert {style: identifier(text, style, "item") for style in STYLES} == expected


def test_equal_names_get_numbers() -> None:
    assert identifiers(["crane", "Crane", "maillot", "maillot!"], "camel") == ("crane", "crane2", "maillot", "maillot2")
    assert identifiers(["a 1", "a_1", "a1"], "snake") == ("a_1", "a_1_2", "a1")


@given(st.lists(st.text(max_size=30), max_size=30), st.sampled_from(STYLES))
def test_any_names_become_legal_and_unique(names: list[str], style: str) -> None:
    spelled = identifiers(names, style)
    assert len(spelled) == len(names)
    assert len({name.lower() for name in spelled}) == len(spelled)
    for name in spelled:
        assert re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name)
        assert not keyword.iskeyword(name)


@given(st.text(max_size=30))
def test_words_are_ascii(text: str) -> None:
    assert all(re.fullmatch("[a-z0-9]+", word) for word in words_of(text))
