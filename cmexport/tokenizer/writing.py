"""A tokenizer's folder in an artefact, which needs no library to be read.

`vocab.json` and `merges.txt` are what tokenizers for phones and browsers read already; transformers'
`CLIPTokenizer.from_pretrained` and `read_tokenizer` read the folder too. `vectors.json` says what must come out.
"""

from __future__ import annotations

import json
from pathlib import Path

from cmexport.tokenizer.clip import Tokenizer
from cmexport.tokenizer.prompts import vector_prompts


def write_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    """Write a tokenizer and its test vectors into a folder, which is made.

    `vocab.json`: ids of pieces. `merges.txt`: after one line, which pieces are joined, the first of them first.
    `tokenizer_config.json`: special tokens and the length. `vectors.json`: `begin`, `end`, `pad`, `length`, and
    `vectors`, each a `text` with its `length` `ids`.

    Raises:
        OSError: it can't be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pieces = {number: piece for piece, number in tokenizer.vocabulary.items()}
    _write(folder / "vocab.json", json.dumps({pieces[number]: number for number in range(len(pieces))}))
    _write(folder / "merges.txt", "\n".join(["#version: 0.2", *map(" ".join, tokenizer.merges)]))
    flags = {"lstrip": False, "rstrip": False, "single_word": False, "special": True}
    config = {
        "added_tokens_decoder": {
            str(special.id): {"content": special.text, "normalized": special.folded, **flags}
            for special in tokenizer.specials
        },
        "bos_token": pieces[tokenizer.begin],
        "eos_token": pieces[tokenizer.end],
        "pad_token": pieces[tokenizer.pad],
        "unk_token": pieces[tokenizer.unknown],
        "model_max_length": tokenizer.length,
        "tokenizer_class": "CLIPTokenizer",
    }
    _write(folder / "tokenizer_config.json", json.dumps(config, indent=2))
    facts = {name: getattr(tokenizer, name) for name in ("begin", "end", "pad", "length")}
    vectors = [json.dumps({"text": text, "ids": tokenizer.encode(text)}) for text in vector_prompts()]
    listed = ",\n".join(vectors)
    _write(folder / "vectors.json", f'{json.dumps(facts)[:-1]}, "vectors": [\n{listed}\n]}}')


def _write(path: Path, text: str) -> None:
    path.write_text(text + "\n", encoding="utf-8", newline="\n")
