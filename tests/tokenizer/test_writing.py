"""What an artefact holds is read again by transformers and by the package."""

from __future__ import annotations

import json

import pytest
from support.clip_tokenizers import save
from transformers import CLIPTokenizer

from cmexport.tokenizer import read_tokenizer, write_tokenizer


@pytest.fixture(scope="module", params=["<|endoftext|>", "!"])
def folders(request, tmp_path_factory):
    source, written = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("artefact") / "tokenizer"
    write_tokenizer(written, read_tokenizer(save(source, pad_token=request.param)))
    return source, written


def test_vectors_are_the_ids_of_transformers(folders):
    source, written = folders
    vectors = json.loads((written / "vectors.json").read_text())
    oracle = CLIPTokenizer.from_pretrained(source)
    texts = [vector["text"] for vector in vectors["vectors"]]
    assert len(set(texts)) == len(texts) >= 200
    assert "" in texts
    assert any(len(oracle(text).input_ids) > 77 for text in texts)
    for vector in vectors["vectors"]:
        expected = oracle(vector["text"], padding="max_length", max_length=77, truncation=True).input_ids
        assert vector["ids"] == expected, vector["text"]
    named = (oracle.bos_token_id, oracle.eos_token_id, oracle.pad_token_id, 77)
    assert tuple(vectors[name] for name in ("begin", "end", "pad", "length")) == named


def test_is_read_again(folders):
    source, written = folders
    assert read_tokenizer(written) == read_tokenizer(source)
    before, again = (CLIPTokenizer.from_pretrained(folder) for folder in folders)
    assert again.model_max_length == 77
    for vector in json.loads((written / "vectors.json").read_text())["vectors"]:
        assert again(vector["text"]).input_ids == before(vector["text"]).input_ids
    assert sorted(path.name for path in written.iterdir()) == [
        *("merges.txt", "tokenizer_config.json", "vectors.json", "vocab.json")
    ]
