"""The oracle is transformers' CLIPTokenizer, with the tokenizers library behind it."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.clip_tokenizers import BEGIN, END, save
from transformers import CLIPTokenizer

from cmexport.demo import demo_checkpoint
from cmexport.tokenizer import Tokenizer, read_tokenizer
from cmexport.tokenizer.prompts import calibration_prompts, vector_prompts

# Characters that Python's Unicode doesn't know yet (Cn) may be letters to another library.
ANY = st.text(st.characters(exclude_categories=["Cs", "Cn"]), max_size=40)
NASTY = st.lists(
    st.one_of(
        st.sampled_from(
            [BEGIN, END, END.upper(), "'s", "'RE", "'", "<|", "|>", "!", " ", "\x1c", "\x85", "İ", "Σ", "ß"]
        ),
        st.text("aetchr ", max_size=12),
        ANY,
    ),
    max_size=8,
).map("".join)


def whole(oracle, text: str) -> tuple[int, ...]:
    return tuple(oracle(text, padding="max_length", max_length=77, truncation=True).input_ids)


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> tuple[Tokenizer, CLIPTokenizer]:
    folder = save(tmp_path_factory.mktemp("tokenizer"))
    return read_tokenizer(folder), CLIPTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("text", [*vector_prompts(), *calibration_prompts()], ids=ascii)
def test_prompts_get_the_ids_of_transformers(pair, text):
    ours, oracle = pair
    assert ours.encode(text) == whole(oracle, text)


def test_the_tokenizer_of_the_emoji_demo():
    folder = demo_checkpoint("emoji") / "tokenizer"
    ours, oracle = read_tokenizer(folder), CLIPTokenizer.from_pretrained(folder)
    for text in (*vector_prompts(), *calibration_prompts()):
        assert ours.encode(text) == whole(oracle, text), text


@settings(max_examples=200, deadline=None)
@given(text=st.one_of(ANY, NASTY))
def test_any_text_gets_the_ids_of_transformers(pair, text):
    ours, oracle = pair
    assert ours.words(text) == tuple(oracle(text, add_special_tokens=False).input_ids)


@pytest.mark.parametrize("seed", range(6))
def test_merges_in_an_order_that_no_training_gives(tmp_path, seed):
    """A pair that was considered early may be joined with others before its turn comes, to the same piece or not."""
    words = ["".join(letters) for n in range(1, 5) for letters in product("ab", repeat=n)]
    pieces = [word + end for word in words for end in ("", "</w>")]
    merges = [(word[:cut], word[cut:] + end) for word in words for cut in range(1, len(word)) for end in ("", "</w>")]
    random.Random(seed).shuffle(merges)
    vocabulary = {piece: number for number, piece in enumerate([*pieces, BEGIN, END])}
    CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77).save_pretrained(tmp_path)
    ours, oracle = read_tokenizer(tmp_path), CLIPTokenizer.from_pretrained(tmp_path)
    text = " ".join("".join(letters) for letters in product("ab", repeat=8))
    assert ours.words(text) == tuple(oracle(text, add_special_tokens=False).input_ids)
    assert ours.encode("cab") == whole(oracle, "cab"), "c is unknown"


@pytest.mark.parametrize("pad", ["!", END])
def test_a_pad_that_is_a_word_too_is_found_in_the_text(tmp_path, pad):
    """SDXL's second tokenizer pads with "!", id 0: "hi!" then ends with 0 instead of the id of "!</w>"."""
    folder = save(tmp_path, pad_token=pad)
    ours, oracle = read_tokenizer(folder), CLIPTokenizer.from_pretrained(folder)
    for text in ("hi!", "hi !! you", ""):
        assert ours.encode(text) == whole(oracle, text)
    assert ours.pad == oracle.pad_token_id == ours.vocabulary[pad]


def test_truncation_keeps_the_end(pair):
    ours, _ = pair
    ids = ours.encode("cat " * 200)
    assert (len(ids), ids[0], ids[-1]) == (77, ours.begin, ours.end)
    assert ids.count(ours.end) == 1


def test_half_a_surrogate_pair_is_a_replacement_character(pair):
    ours, _ = pair
    assert ours.words("cat \ud83d") == ours.words("cat \ufffd")
    assert ours.words("\ud83d\ude3f") == ours.words("😿")


def test_a_long_word_takes_no_quadratic_time(pair):
    ours, oracle = pair
    text = "theatre" * 20_000
    assert ours.words(text) == tuple(oracle(text, add_special_tokens=False).input_ids)


def test_needs_no_library(tmp_path):
    save(tmp_path)
    program = (
        "import sys; from pathlib import Path; from cmexport.tokenizer import read_tokenizer, write_tokenizer\n"
        "folder = Path(sys.argv[1]); one = read_tokenizer(folder)\n"
        "one.encode('cat'); write_tokenizer(folder / 'x', one)\n"
        "print({name.partition('.')[0] for name in sys.modules} - sys.stdlib_module_names)"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=True)
    assert not {"transformers", "tokenizers", "torch", "numpy", "regex", "ftfy"} & set(re.findall(r"\w+", done.stdout))
    assert "cmexport" in done.stdout
