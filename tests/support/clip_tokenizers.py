"""Small tokenizers of CLIP's kind, made and saved by transformers."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

BEGIN, END = "<|startoftext|>", "<|endoftext|>"
CORPUS = (
    "a crying cat, a green car, a woman astronaut, a red heart, a photo of a cat; don't, it's, we're, naïve café, "
    "猫猫, кошка, été été, the theatre, heater, 😿😿 12 80% abababab aaaa!!! ..."
)


def trained(corpus: str = CORPUS, size: int = 900) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A vocabulary laid out as CLIP's: bytes, bytes that end words, what merges make, two special tokens."""
    # Trained once: the trainer breaks ties in any order, and two tokenizers of a test must have one vocabulary.
    ids, merges = _trained(corpus, size)
    return dict(ids), list(merges)


@cache
def _trained(corpus: str, size: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.normalizer = normalizers.Lowercase()
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    learner.train_from_iterator(
        [corpus], trainers.BpeTrainer(vocab_size=size, end_of_word_suffix="</w>", show_progress=False)
    )
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*alphabet, *(letter + "</w>" for letter in alphabet), *map("".join, merges), BEGIN, END]
    return {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}, merges


def save(folder: Path, **options: object) -> Path:
    """`tokenizer.json` and its configuration, as transformers writes them."""
    from transformers import CLIPTokenizer

    vocabulary, merges = trained()
    CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77, **options).save_pretrained(folder)
    return folder


def save_in_parts(folder: Path, **config: object) -> Path:
    """`vocab.json` and `merges.txt`, as folders of Stable Diffusion have them, and what `config` says."""
    vocabulary, merges = trained()
    folder.mkdir(exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *map(" ".join, merges), ""]), encoding="utf-8")
    if config:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder
