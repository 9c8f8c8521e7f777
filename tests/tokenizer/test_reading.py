"""Both forms on disk against transformers, and what must be refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.clip_tokenizers import BEGIN, END, save, save_in_parts, trained
from transformers import CLIPTokenizer

from cmexport.errors import CheckpointError
from cmexport.tokenizer import read_tokenizer
from cmexport.tokenizer.prompts import vector_prompts


def added(text: str, *, normalized: bool, **others: object) -> dict[str, object]:
    flags = {"lstrip": False, "rstrip": False, "single_word": False, **others}
    return {"content": text, "normalized": normalized, **flags}


def numbered(*tokens: dict[str, object]) -> dict[str, dict[str, object]]:
    ids, _ = trained()
    for token in tokens:
        ids.setdefault(token["content"], len(ids))
    return {str(ids[token["content"]]): {**token, "special": True} for token in tokens}


CONFIGS: dict[str, dict[str, object]] = {
    "none": {},
    "Stable Diffusion 1.5": {
        "bos_token": {"__type": "AddedToken", **added(BEGIN, normalized=True)},
        "eos_token": {"__type": "AddedToken", **added(END, normalized=True)},
        "unk_token": {"__type": "AddedToken", **added(END, normalized=True)},
        "pad_token": END,
        "model_max_length": 77,
        "tokenizer_class": "CLIPTokenizer",
    },
    "SDXL's second": {
        "added_tokens_decoder": numbered(
            added("!", normalized=False), added(BEGIN, normalized=True), added(END, normalized=True)
        ),
        "bos_token": BEGIN,
        "eos_token": END,
        "unk_token": END,
        "pad_token": "!",
        "model_max_length": 77,
    },
    "textual inversion": {
        "added_tokens_decoder": numbered(
            added(BEGIN, normalized=False), added(END, normalized=False), added("<Cat-Toy>", normalized=True)
        ),
    },
    "one token begins another": {
        "added_tokens_decoder": numbered(
            *(added(text, normalized=False) for text in (BEGIN, END)),
            *(added(text, normalized=False) for text in ("<cat", "<cat>")),
        )
    },
    "length never stated": {"model_max_length": int(1e30)},
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_vocabulary_and_merges_in_two_files(tmp_path, config):
    folder = save_in_parts(tmp_path, **config)
    ours, oracle = read_tokenizer(folder), CLIPTokenizer.from_pretrained(folder)
    for text in (*vector_prompts(), "a <cat-toy> cat", "a <Cat-Toy>cat", "<<cat>>"):
        expected = oracle(text, padding="max_length", max_length=77, truncation=True).input_ids
        assert ours.encode(text) == tuple(expected), text


def test_special_tokens_in_files_of_their_own(tmp_path):
    folder = save_in_parts(tmp_path)
    (folder / "special_tokens_map.json").write_text(json.dumps({"pad_token": "!"}))
    (folder / "added_tokens.json").write_text(json.dumps({"<Cat-Toy>": len(read_tokenizer(folder).vocabulary)}))
    ours, oracle = read_tokenizer(folder), CLIPTokenizer.from_pretrained(folder)
    for text in ("hi!", "a <cat-toy> cat", "a <Cat-Toy>cat"):
        expected = oracle(text, padding="max_length", max_length=77, truncation=True).input_ids
        assert ours.encode(text) == tuple(expected), text


def test_tokenizer_json_of_transformers_4(tmp_path):
    """Merges as text and no special tokens in the pattern; no configuration beside it."""
    folder = save(tmp_path)
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]
    pattern = content["pre_tokenizer"]["pretokenizers"][0]["pattern"]
    pattern["Regex"] = pattern["Regex"].removeprefix(r"<\|startoftext\|>|<\|endoftext\|>|")
    for name in ("use_regex",):
        del content["pre_tokenizer"]["pretokenizers"][1][name]
    before = read_tokenizer(folder)
    path.write_text(json.dumps(content))
    (folder / "tokenizer_config.json").unlink()
    assert read_tokenizer(folder) == before


def _json(change):
    """Change `tokenizer.json`."""

    def apply(folder: Path) -> None:
        path = folder / "tokenizer.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return apply


def _write(name: str, text: str, *, parts: bool = False):
    def apply(folder: Path) -> None:
        if parts:
            (folder / "tokenizer.json").unlink()
            save_in_parts(folder)
        (folder / name).write_text(text)

    return apply


def _config(**fields: object):
    return _write("tokenizer_config.json", json.dumps(fields))


def _no_merges_file(folder: Path) -> None:
    _write("vocab.json", json.dumps({"a</w>": 0}), parts=True)(folder)
    (folder / "merges.txt").unlink()


DAMAGED = {
    "no merges": (_json(lambda c: c["model"].update(merges=[])), "tokenizer.json: has no merges"),
    "merges.txt without merges": (_write("merges.txt", "#version: 0.2\n", parts=True), "merges.txt: has no merges"),
    "no merges.txt": (_no_merges_file, "merges.txt: no such file"),
    "merges are a number": (_json(lambda c: c["model"].update(merges=7)), "has no merges"),
    "merge of unknown pieces": (
        _json(lambda c: c["model"]["merges"].append(["ca", "zz"])),
        "speaks of 'zz', which the vocabulary lacks",
    ),
    "merge into nothing": (_json(lambda c: c["model"]["merges"].append(["!", "q"])), "speaks of '!q'"),
    "merge of three": (_write("merges.txt", "#version: 0.2\na b c\n", parts=True), "merge 0 is no pair of pieces"),
    "not UTF-8": (lambda folder: (folder / "tokenizer.json").write_bytes(b"{\xff}"), "is no UTF-8 text"),
    "no JSON": (_write("tokenizer.json", "{"), "is no valid JSON"),
    "a list": (_write("vocab.json", "[]", parts=True), "is no JSON object"),
    "nothing inside": (_write("tokenizer.json", "{}"), "has no model"),
    "two pieces of one id": (_json(lambda c: c["model"]["vocab"].update({"a": 3})), "two pieces"),
    "an id out of range": (_json(lambda c: c["model"]["vocab"].update({"a": 10**9})), "piece 'a' has id 1000000000"),
    "a negative id": (_json(lambda c: c["model"]["vocab"].update({"a": -1})), "piece 'a' has id -1"),
    "an id that is text": (_json(lambda c: c["model"]["vocab"].update({"a": "3"})), "piece 'a' has id 3"),
    "an id that is true": (_json(lambda c: c["model"]["vocab"].update({"a": True})), "piece 'a' has id True"),
    "an empty vocabulary": (_json(lambda c: c["model"].update(vocab={})), "has no vocabulary"),
    "GPT-2": (_write("vocab.json", '{"a": 0, "b": 1}', parts=True), "no tokenizer of CLIP"),
    "no begin": (_config(bos_token="<s>"), "bos_token is '<s>', which the vocabulary lacks"),
    "begin is a number": (_config(bos_token=7), "bos_token is '7'"),
    "WordPiece": (_json(lambda c: c["model"].update(type="WordPiece")), "type is 'WordPiece'"),
    "Unigram": (_json(lambda c: c.update(model={"type": "Unigram", "vocab": [["a", -1.0]]})), "type is 'Unigram'"),
    "T5": (_config(tokenizer_class="T5Tokenizer"), "is a T5Tokenizer"),
    "sentencepiece": (
        lambda folder: [(folder / "tokenizer.json").unlink(), (folder / "spiece.model").touch()],
        "holds no CLIP tokenizer",
    ),
    "other normalizer": (_json(lambda c: c["normalizer"]["normalizers"].pop(0)), "its normalizer is not CLIP's"),
    "no normalizer": (_json(lambda c: c.update(normalizer=None)), "its normalizer is not CLIP's"),
    "other words": (_json(lambda c: c["pre_tokenizer"]["pretokenizers"].pop(0)), "does not split words"),
    "76 tokens": (_config(model_max_length=76), "model_max_length is 76"),
    "endless": (_config(model_max_length=10**18), "model_max_length is 1000000000000000000"),
    "length is text": (_config(model_max_length="77"), "model_max_length is 77"),
    "strips": (
        _config(added_tokens_decoder={"3": {"content": "x", "rstrip": True}}),
        "tokenizer_config.json: token 'x' asks for rstrip",
    ),
    "added tokens are text": (_config(added_tokens_decoder={"3": "x"}), "added_tokens_decoder holds no tokens"),
    "added tokens are a number": (_json(lambda c: c.update(added_tokens=3)), "added_tokens is no list"),
    "an added token of another id": (_json(lambda c: c["added_tokens"][0].update(id=3)), f"piece '{BEGIN}' has ids"),
    "an added token without text": (_json(lambda c: c["added_tokens"][0].update(content="")), "without text or id"),
}


@pytest.mark.parametrize(("damage", "said"), DAMAGED.values(), ids=DAMAGED)
def test_damaged_and_foreign_ones_are_refused(tmp_path, damage, said):
    damage(save(tmp_path))
    with pytest.raises(CheckpointError) as caught:
        read_tokenizer(tmp_path)
    assert said in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


def test_a_file_too_large_is_refused_unread(tmp_path):
    save_in_parts(tmp_path)
    with (tmp_path / "merges.txt").open("r+b") as file:
        file.truncate(40 * 2**20)
    with pytest.raises(CheckpointError, match="larger than any configuration"):
        read_tokenizer(tmp_path)
