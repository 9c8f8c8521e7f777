"""CLIP's own vocabulary, for checkpoints that hold weights alone: 49,408 pieces, `clip_vocabulary/` with its licence.

`bpe_simple_vocab_16e6.txt.gz` is OpenAI's file (openai/CLIP, MIT), the same to the byte in open_clip: one line of
header, then pairs of pieces in the order in which they are joined, of which CLIP takes the first 48,894. Ids are given
as in its `simple_tokenizer.py`: bytes, bytes that end a word, what merges make, two special tokens.
"""

from __future__ import annotations

import gzip
from functools import cache
from importlib.resources import files

from cmexport.tokenizer.clip import BYTES, END_OF_WORD, Special, Tokenizer

_FILE = "clip_vocabulary/bpe_simple_vocab_16e6.txt.gz"
_PIECES = 49_408
_BEGIN, _END = "<|startoftext|>", "<|endoftext|>"


@cache
def clip_tokenizer(pad: str = _END) -> Tokenizer:
    """Return CLIP's tokenizer.

    Args:
        pad: what fills a prompt: the end token in Stable Diffusion 1 and for SDXL's first encoder; "!", id 0, in
            OpenCLIP's, where diffusers' tokenizers find it in texts as well: "hi!" ends with 0 there.
    """
    # Printable bytes come first, in their own order.
    letters = sorted(BYTES)
    pieces = [*letters, *(letter + END_OF_WORD for letter in letters)]
    lines = gzip.decompress(files("cmexport.tokenizer").joinpath(_FILE).read_bytes()).decode().split("\n")
    merges = []
    for line in lines[1 : 1 + _PIECES - len(pieces) - 2]:
        left, right = line.split()
        merges.append((left, right))
    pieces += [*("".join(pair) for pair in merges), _BEGIN, _END]
    ids = {piece: number for number, piece in enumerate(pieces)}
    named = dict.fromkeys((_BEGIN, _END, pad))
    return Tokenizer(
        vocabulary=ids,
        merges=tuple(merges),
        begin=ids[_BEGIN],
        end=ids[_END],
        pad=ids[pad],
        unknown=ids[_END],
        # As in the folders of Stable Diffusion: begin and end are found in any case, but what pads as it stands.
        specials=tuple(
            sorted((Special(text, ids[text], text != pad) for text in named), key=lambda special: special.id)
        ),
    )
