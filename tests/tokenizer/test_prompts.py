from __future__ import annotations

import unicodedata

from cmexport.tokenizer import calibration_prompts
from cmexport.tokenizer.prompts import vector_prompts


def test_prompts_for_calibration_are_ordinary():
    prompts = calibration_prompts()
    assert len(set(prompts)) == len(prompts) == 64
    assert all(prompt == prompt.strip() and prompt.isascii() and 1 <= len(prompt.split()) <= 16 for prompt in prompts)


def test_prompts_of_vectors_are_of_every_kind():
    text = "".join(vector_prompts())
    categories = {unicodedata.category(character) for character in text}
    assert {*("Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Nd", "Nl", "No", "Zs", "Zl", "Cc", "Cf", "Co", "So")} <= categories
    directions = {unicodedata.bidirectional(character) for character in text}
    assert {"R", "AL"} <= directions
    assert not any("\ud800" <= character <= "\udfff" for character in text)
