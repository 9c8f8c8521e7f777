"""SDXL's two tokenizers by transformers: the second's ids follow from the first's, where the docstring says so."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.clip_tokenizers import save, save_in_parts, trained
from transformers import CLIPTokenizer

from cmexport.networks.clip_text import SecondTokens
from cmexport.tokenizer import read_tokenizer, translation

# "!" as people write it: after a word, or alone. Other punctuation keeps away from it.
WORDS = st.text(st.characters(categories=["L", "N", "M", "S"], exclude_characters="!"), max_size=12)
PROMPTS = st.lists(
    st.tuples(
        st.one_of(WORDS, st.sampled_from(["cat", "it's", "naïve", "12", "😿"])), st.sampled_from(["", " !", " "])
    ),
    max_size=12,
).map(lambda parts: " ".join(word + mark for word, mark in parts))
AFTER_LETTERS = st.lists(st.sampled_from(["cat!", "a!", "the theatre", "猫!", "12!", "!"]), max_size=90).map(" ".join)


def whole(oracle, text: str) -> tuple[int, ...]:
    return tuple(oracle(text, padding="max_length", max_length=77, truncation=True).input_ids)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Our translation, and transformers' two tokenizers."""
    folders = [save(tmp_path_factory.mktemp("t"), **options) for options in ({}, {"pad_token": "!"})]
    found = translation(*map(read_tokenizer, folders))
    assert found is not None
    return (found, *map(CLIPTokenizer.from_pretrained, folders))


@settings(max_examples=300, deadline=None)
@given(text=st.one_of(PROMPTS, AFTER_LETTERS))
def test_the_second_ids_follow_from_the_first(pair, text):
    found, first, second = pair
    expected = whole(second, text)
    assert found.of(whole(first, text)) == expected
    graph = SecondTokens(found.end, found.pad, found.replaced)
    assert graph(torch.tensor([whole(first, text)])).tolist() == [list(expected)]


def test_what_is_replaced(pair):
    found, first, second = pair
    words = trained()[0]
    assert (found.end, found.pad, dict(found.replaced)) == (words["<|endoftext|>"], 0, {words["!</w>"]: 0})
    assert whole(first, "hi!") != whole(second, "hi!")


def test_two_characters_in_one_token_stay_one(tmp_path):
    """The limit: the first tokenizer may know "?!" as a whole, where the second has two."""
    words, merges = trained("wow?! wow?! wow?! a cat")
    assert "?!</w>" in words
    one, two = (
        CLIPTokenizer(vocab=words, merges=merges, model_max_length=77, **options)
        for options in ({}, {"pad_token": "!"})
    )
    for folder, tokenizer in (("one", one), ("two", two)):
        tokenizer.save_pretrained(tmp_path / folder)
    found = translation(read_tokenizer(tmp_path / "one"), read_tokenizer(tmp_path / "two"))
    assert found is not None
    assert found.of(whole(one, "wow?!")) != whole(two, "wow?!")
    assert found.of(whole(one, "wow!")) == whole(two, "wow!")


def test_equal_tokenizers_need_nothing(tmp_path):
    tokenizer = read_tokenizer(save(tmp_path))
    found = translation(tokenizer, tokenizer)
    assert found is not None
    assert dict(found.replaced) == {}
    ids = tokenizer.encode("a cat!")
    assert found.of(ids) == ids


@pytest.mark.parametrize("change", ["merges", "words", "other specials"])
def test_tokenizers_that_are_two(change, tmp_path):
    first = read_tokenizer(save(tmp_path / "one"))
    if change == "merges":
        save_in_parts(tmp_path / "two")
        path = tmp_path / "two" / "merges.txt"
        path.write_text("\n".join(path.read_text(encoding="utf-8").split("\n")[:-3]), encoding="utf-8")
        second = read_tokenizer(tmp_path / "two")
    elif change == "words":
        # A special token of several words says nothing token by token.
        second = read_tokenizer(save(tmp_path / "two", pad_token="ca!"))
    else:
        first, second = read_tokenizer(save(tmp_path / "two", pad_token="!")), first
    assert translation(first, second) is None
