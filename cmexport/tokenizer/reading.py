"""CLIP's tokenizer out of a folder: `tokenizer.json` (transformers 5), or `vocab.json` with `merges.txt`.

`tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json` beside them are optional and say what
transformers takes from them (`PreTrainedTokenizerBase._from_pretrained`). All of it is data from outside.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cmexport.errors import CheckpointError
from cmexport.files import read_json, read_text
from cmexport.tokenizer.clip import END_OF_WORD, LENGTH, Special, Tokenizer

# CLIP's: 49,408 pieces; 3.6 MB as transformers 5 writes them, indented.
_MOST_BYTES = 32 * 2**20
_UNSTATED_LENGTH = int(1e30)
"""What transformers writes for a tokenizer that was made of bare files."""

_CLASSES = ("CLIPTokenizer", "CLIPTokenizerFast")
_BEGIN, _END = "<|startoftext|>", "<|endoftext|>"
# In transformers' order: of two names for one token the later decides how it is found.
_DEFAULTS = {"bos_token": _BEGIN, "eos_token": _END, "unk_token": _END, "pad_token": _END}
_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_LISTS = ("additional_special_tokens", "extra_special_tokens")

_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_PATTERNS = (_WORDS, rf"<\|startoftext\|>|<\|endoftext\|>|{_WORDS}")
_NORMALIZERS = [
    {"type": "NFC"},
    {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
    {"type": "Lowercase"},
]
# Fields of the BPE model and what they are where CLIP's has them; `unk_token` may be any piece.
_MODEL = {
    "type": ("BPE",),
    "end_of_word_suffix": (END_OF_WORD,),
    "continuing_subword_prefix": ("", None),
    "dropout": (None,),
    "fuse_unk": (False, None),
    "byte_fallback": (False, None),
    "ignore_merges": (False, None),
}


def read_tokenizer(folder: Path) -> Tokenizer:
    """Read the tokenizer in a folder, as transformers' `CLIPTokenizer` does.

    Raises:
        CheckpointError: a file is missing or damaged, or it is another kind of tokenizer, or one for prompts of another
            length than 77.
    """
    config = _optional(folder / "tokenizer_config.json")
    _check_config(folder / "tokenizer_config.json", config)
    whole = folder / "tokenizer.json"
    if whole.exists():
        where, found = whole, read_json(whole, _MOST_BYTES)
        _check_steps(whole, found)
        vocabulary, pairs = found["model"].get("vocab"), found["model"].get("merges")
        added = found.get("added_tokens")
    else:
        where, added = folder / "vocab.json", []
        if not where.exists():
            raise CheckpointError(
                f"{folder}: holds no CLIP tokenizer: neither tokenizer.json nor vocab.json with merges.txt"
            )
        vocabulary = read_json(where, _MOST_BYTES)
        lines = read_text(folder / "merges.txt", _MOST_BYTES).split("\n")
        pairs = [line for line in lines if line and not line.startswith("#version")]
    if "added_tokens_decoder" in config:
        where, added = folder / "tokenizer_config.json", _listed(where, config["added_tokens_decoder"])
    else:
        config = {**config, **_optional(folder / "special_tokens_map.json")}
        older = _optional(folder / "added_tokens.json", _MOST_BYTES)
        added = [*({"content": text, "id": number} for text, number in older.items()), *_list(where, added)]
    tokens = {special.text: special for special in _specials(where, added)}
    vocabulary = _vocabulary(where, vocabulary, tokens)
    named = _named(where, config, vocabulary, tokens)
    return Tokenizer(
        vocabulary=vocabulary,
        merges=tuple(_merges(whole if whole.exists() else folder / "merges.txt", pairs, vocabulary)),
        begin=named["bos_token"],
        end=named["eos_token"],
        pad=named["pad_token"],
        unknown=named["unk_token"],
        specials=tuple(sorted(tokens.values(), key=lambda special: special.id)),
    )


def _optional(path: Path, most_bytes: int = 1_000_000) -> dict[str, Any]:
    return read_json(path, most_bytes) if path.exists() else {}


def _check_config(path: Path, config: Mapping[str, Any]) -> None:
    kind = config.get("tokenizer_class", _CLASSES[0])
    if kind not in _CLASSES:
        raise CheckpointError(f"{path}: is a {str(kind)[:80]}; only {_CLASSES[0]} is supported")
    length = config.get("model_max_length", LENGTH)
    if length not in (LENGTH, _UNSTATED_LENGTH) or isinstance(length, bool):
        raise CheckpointError(f"{path}: model_max_length is {str(length)[:40]}; CLIP's prompts have {LENGTH} tokens")


def _check_steps(path: Path, found: Mapping[str, Any]) -> None:
    """Refuse a `tokenizer.json` that does something else than CLIP's."""
    model = found.get("model")
    if not isinstance(model, dict):
        raise CheckpointError(f"{path}: has no model")
    for name, allowed in _MODEL.items():
        if (value := model.get(name, allowed[0])) not in allowed:
            raise CheckpointError(f"{path}: {name} is {str(value)[:40]!r}; only CLIP's byte-level BPE is supported")
    if _steps(found.get("normalizer"), "normalizers") != _NORMALIZERS:
        raise CheckpointError(f"{path}: its normalizer is not CLIP's: NFC, white space folded, lower case")
    steps = _steps(found.get("pre_tokenizer"), "pretokenizers")
    split, apart = steps if len(steps) == 2 else ({}, {})
    if (
        split.get("pattern") not in [{"Regex": pattern} for pattern in _PATTERNS]
        or (split.get("behavior"), split.get("invert")) != ("Removed", True)
        or (apart.get("type"), apart.get("add_prefix_space"), apart.get("use_regex", True))
        != ("ByteLevel", False, True)
    ):
        raise CheckpointError(f"{path}: its pre_tokenizer does not split words as CLIP's does")


def _steps(step: Any, inner: str) -> list[dict[str, Any]]:
    steps = step.get(inner) if isinstance(step, dict) else None
    return [one for one in steps if isinstance(one, dict)] if isinstance(steps, list) else []


def _list(path: Path, added: Any) -> list[Any]:
    if not isinstance(added, list | None):
        raise CheckpointError(f"{path}: added_tokens is no list")
    return added or []


def _listed(path: Path, decoder: Any) -> list[Any]:
    if not isinstance(decoder, dict) or not all(isinstance(token, dict) for token in decoder.values()):
        raise CheckpointError(f"{path}: added_tokens_decoder holds no tokens")
    return [{**token, "id": int(number) if number.isdecimal() else number} for number, token in decoder.items()]


def _specials(path: Path, added: list[Any]) -> Iterator[Special]:
    for token in added:
        text, number = (token.get("content"), token.get("id")) if isinstance(token, dict) else (None, None)
        if not isinstance(text, str) or not text or type(number) is not int:
            raise CheckpointError(f"{path}: holds an added token without text or id: {str(token)[:80]}")
        yield Special(text, number, _folded(path, text, token))


def _folded(path: Path, text: str, token: Mapping[str, Any]) -> bool:
    for flag in ("lstrip", "rstrip", "single_word"):
        if token.get(flag):
            raise CheckpointError(f"{path}: token {text[:40]!r} asks for {flag}, which is not supported")
    return bool(token.get("normalized", not token.get("special")))


def _vocabulary(path: Path, found: Any, tokens: Mapping[str, Special]) -> dict[str, int]:
    if not isinstance(found, dict) or not found:
        raise CheckpointError(f"{path}: has no vocabulary from pieces to ids")
    vocabulary = {**{special.text: special.id for special in tokens.values()}, **found}
    for piece, number in vocabulary.items():
        if type(number) is not int or not 0 <= number < len(vocabulary):
            raise CheckpointError(
                f"{path}: piece {piece[:40]!r} has id {str(number)[:40]}; {len(vocabulary)} pieces have ids from 0 on"
            )
        if piece in tokens and tokens[piece].id != number:
            raise CheckpointError(f"{path}: piece {piece[:40]!r} has ids {number} and {tokens[piece].id}")
    if len(set(vocabulary.values())) < len(vocabulary):
        raise CheckpointError(f"{path}: two pieces of its vocabulary have one id")
    if not any(piece.endswith(END_OF_WORD) for piece in vocabulary):
        raise CheckpointError(f"{path}: no piece ends a word with {END_OF_WORD}; this is no tokenizer of CLIP")
    return vocabulary


def _merges(path: Path, pairs: Any, vocabulary: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    if not isinstance(pairs, list) or not pairs:
        raise CheckpointError(f"{path}: has no merges: without them every letter would be a word; copy the file again")
    for number, pair in enumerate(pairs):
        parts = pair.split(" ") if isinstance(pair, str) else pair
        if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(part, str) for part in parts):
            raise CheckpointError(f"{path}: merge {number} is no pair of pieces: {str(pair)[:80]!r}")
        if lost := [piece for piece in (*parts, "".join(parts)) if piece not in vocabulary]:
            raise CheckpointError(f"{path}: merge {number} speaks of {lost[0][:40]!r}, which the vocabulary lacks")
        yield parts[0], parts[1]


def _named(
    path: Path, config: Mapping[str, Any], vocabulary: Mapping[str, int], tokens: dict[str, Special]
) -> dict[str, int]:
    """Return the ids of named tokens by name; they are found in texts too, so `tokens` learns of them."""
    values = {name: config.get(name) or _DEFAULTS.get(name) for name in _NAMES}
    further = [token for name in _LISTS if isinstance(config.get(name), list) for token in config[name]]
    listed, ids = frozenset(tokens), {}
    for name, value in (*values.items(), *(("special token", token) for token in further)):
        if value is None:
            continue
        text = value.get("content") if isinstance(value, dict) else value
        if not isinstance(text, str) or text not in vocabulary:
            raise CheckpointError(f"{path}: {name} is {str(text)[:40]!r}, which the vocabulary lacks")
        ids[name] = vocabulary[text]
        if text not in listed:
            tokens[text] = Special(text, ids[name], isinstance(value, dict) and _folded(path, text, value))
    return ids
