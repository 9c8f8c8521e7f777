"""CLIP's packaged vocabulary: published ids, OpenAI's own layout, and transformers' reading of what is written."""

from __future__ import annotations

import gzip
import hashlib
from importlib.resources import files

import pytest
from transformers import AddedToken, CLIPTokenizer

from cmexport.tokenizer import clip_tokenizer, read_tokenizer, write_tokenizer
from cmexport.tokenizer.prompts import vector_prompts

FOLDER = files("cmexport.tokenizer").joinpath("clip_vocabulary")


def test_the_file_is_openais_and_has_its_licence():
    found = FOLDER.joinpath("bpe_simple_vocab_16e6.txt.gz").read_bytes()
    assert hashlib.sha256(found).hexdigest() == "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"
    licence = FOLDER.joinpath("LICENSE").read_text()
    assert "MIT License" in licence
    assert "OpenAI" in licence


# Ids that models were trained with: openai/CLIP's notebook and README, and stable-diffusion-v1-5's tokenizer.
@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("", []),
        ("a photo of a cat", [320, 1125, 539, 320, 2368]),
        ("a diagram", [320, 22697]),
        ("a dog", [320, 1929]),
        ("hello world!", [3306, 1002, 256]),
    ],
)
def test_published_ids(text, ids):
    tokenizer = clip_tokenizer()
    assert (len(tokenizer.vocabulary), len(tokenizer.merges)) == (49408, 48894)
    rest = 77 - len(ids) - 2
    assert tokenizer.encode(text) == (49406, *ids, 49407, *[49407] * rest)


def oracle(**options):
    """transformers' tokenizer on a vocabulary laid out as OpenAI's `SimpleTokenizer.__init__` does."""
    lines = gzip.decompress(FOLDER.joinpath("bpe_simple_vocab_16e6.txt.gz").read_bytes()).decode().split("\n")
    merges = [tuple(line.split()) for line in lines[1 : 49152 - 256 - 2 + 1]]
    codes = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    letters = [chr(code) for code in codes] + [chr(256 + n) for n in range(256 - len(codes))]
    pieces = letters + [letter + "</w>" for letter in letters] + ["".join(pair) for pair in merges]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    # As tokenizer_config.json of stable-diffusion-v1-5 has them.
    begin, end = (AddedToken(text, normalized=True) for text in pieces[-2:])
    special = {"bos_token": begin, "eos_token": end, "unk_token": end, "model_max_length": 77}
    return CLIPTokenizer(vocab={p: n for n, p in enumerate(pieces)}, merges=merges, **special, **options)


@pytest.mark.parametrize("pad", ["<|endoftext|>", "!"])
def test_the_ids_of_transformers(pad, tmp_path):
    ours, theirs = clip_tokenizer(pad), oracle(**({"pad_token": pad} if pad == "!" else {}))
    texts = [*vector_prompts(), "hi!", "hi !!", "a red car, 4k, (masterpiece:1.2)"]
    for text in texts:
        given = theirs(text, padding="max_length", truncation=True, max_length=77).input_ids
        assert list(ours.encode(text)) == given, text
    # An artefact holds the same tokenizer.
    write_tokenizer(tmp_path, ours)
    again, loaded = read_tokenizer(tmp_path), CLIPTokenizer.from_pretrained(tmp_path)
    for text in texts:
        assert again.encode(text) == ours.encode(text)
        assert tuple(loaded(text, padding="max_length", truncation=True, max_length=77).input_ids) == ours.encode(text)
