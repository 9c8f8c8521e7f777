"""CLIP's byte-level BPE tokenizer with nothing but the standard library.

It gives the ids of transformers' `CLIPTokenizer` with the `tokenizers` library behind it (`CLIPTokenizerFast` before
transformers 5): NFC, white space folded, lower case, words split, then byte pairs merged (Radford et al. 2021; BPE of
Sennrich et al. 2016, algorithm 1). The slow `CLIPTokenizer` of transformers 4 and OpenAI's `SimpleTokenizer` treat some
text otherwise: with ftfy they repair wrongly decoded text, without it they drop control characters and set every CJK
character apart. Categories of letters and digits are those of Python's `unicodedata`: characters that are newer than
both libraries' Unicode versions count as punctuation.
"""

from __future__ import annotations

import heapq
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

END_OF_WORD = "</w>"
LENGTH = 77

# transformers' pattern, over text where "b" stands for letters outside ASCII (\p{L}) and "0" for digits (\p{N}).
_PIECES = re.compile(r"<\|((?:start|end)oftext)\|>|'(?:s|t|re|ve|m|ll|d)|[A-Za-z]+|[0-9]|[^\sA-Za-z0-9]+", re.ASCII)
_CLASSES = {"L": "b", "N": "0"}
# Python counts 1C to 1F as space too, regular expressions elsewhere don't.
_SPACES = re.compile(r"[^\S\x1c-\x1f]+")


def _byte_alphabet() -> tuple[str, ...]:
    """Return a printable character for each byte, as GPT-2's `bytes_to_unicode`."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return tuple(chr(byte) if byte in printable else chr(next(others)) for byte in range(256))


BYTES = _byte_alphabet()


@dataclass(frozen=True)
class Special:
    """A token that is found in the text as it stands, before words are split.

    `folded`: it is looked for, in any case, in text that is normalized already ("normalized" in files).
    """

    text: str
    id: int
    folded: bool = False


@dataclass(frozen=True)
class Tokenizer:
    """A vocabulary and the order in which pairs of its pieces are joined.

    Attributes:
        vocabulary: id of each piece, special tokens included, 0 to n - 1. Bytes are spelled as in `BYTES`; a piece
            that ends a word ends with `</w>`.
        merges: pairs of pieces, the first to be joined first.
        begin, end, pad: ids around the words.
        unknown: id of a byte that the vocabulary lacks.
        specials: tokens that text may hold verbatim.
        length: tokens of an encoded prompt.
    """

    vocabulary: Mapping[str, int] = field(hash=False)
    merges: tuple[tuple[str, str], ...] = field(hash=False)
    begin: int
    end: int
    pad: int
    unknown: int
    specials: tuple[Special, ...] = ()
    length: int = LENGTH

    def encode(self, text: str) -> tuple[int, ...]:
        """Return `length` ids: begin, as many words as there is room for, end, then pad."""
        kept = self.words(text)[: self.length - 2]
        return (self.begin, *kept, self.end, *[self.pad] * (self.length - len(kept) - 2))

    def words(self, text: str) -> tuple[int, ...]:
        """Return the ids of all of a text, without begin and end; half of a surrogate pair counts as U+FFFD."""
        sound = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return tuple(self._ids(sound))

    def _ids(self, text: str) -> Iterator[int]:
        for plain, special in _apart(text, self._verbatim):
            for part, folded in _apart(_normalized(plain), self._folded):
                for piece in _pieces(part):
                    yield from self._joined(piece)
                yield from folded
            yield from special

    @cached_property
    def _verbatim(self) -> Mapping[str, int]:
        return {special.text: special.id for special in self.specials if not special.folded}

    @cached_property
    def _folded(self) -> Mapping[str, int]:
        return {_normalized(special.text): special.id for special in self.specials if special.folded}

    @cached_property
    def _ranks(self) -> Mapping[tuple[str, str], int]:
        return {pair: rank for rank, pair in enumerate(self.merges)}

    @cached_property
    def _unknown(self) -> str:
        return next(piece for piece, number in self.vocabulary.items() if number == self.unknown)

    def _joined(self, piece: str) -> Iterator[int]:
        """Join the bytes of a word, pair by pair: of those in `merges` the earliest, of equal ones the leftmost.

        A heap, since text without spaces may be long; as `Word::merge_all` of `tokenizers` (src/models/bpe/word.rs),
        which keeps a pair that was changed meanwhile if it would still become the same piece.
        """
        spelled = [BYTES[byte] for byte in piece.encode()]
        spelled[-1] += END_OF_WORD
        parts = [part if part in self.vocabulary else self._unknown for part in spelled]
        after = [*range(1, len(parts)), -1]
        before = list(range(-1, len(parts) - 1))
        waiting: list[tuple[int, int, str]] = []

        def consider(left: int, right: int) -> None:
            if left >= 0 and right >= 0 and (rank := self._ranks.get((parts[left], parts[right]))) is not None:
                heapq.heappush(waiting, (rank, left, parts[left] + parts[right]))

        for left, right in pairwise(range(len(parts))):
            consider(left, right)
        while waiting:
            _, left, whole = heapq.heappop(waiting)
            right = after[left]
            if not parts[left] or right < 0 or (parts[left], parts[right]) not in self._ranks:
                continue
            if parts[left] + parts[right] != whole:
                continue
            parts[left], parts[right] = whole, ""
            after[left] = after[right]
            if after[left] >= 0:
                before[after[left]] = left
            consider(before[left], left)
            consider(left, after[left])
        return (self.vocabulary[part] for part in parts if part)


def _apart(text: str, specials: Mapping[str, int]) -> Iterator[tuple[str, Sequence[int]]]:
    """Split text at special tokens, the longest where several begin; each part comes with what follows it."""
    if not specials:
        yield text, ()
        return
    longest_first = sorted(specials, key=len, reverse=True)
    found = re.split("(" + "|".join(map(re.escape, longest_first)) + ")", text)
    for plain, special in zip(found[::2], [*found[1::2], None], strict=True):
        yield plain, () if special is None else (specials[special],)


def _normalized(text: str) -> str:
    # Letter by letter: `str.lower` of a whole word ends Greek ones with another sigma.
    return "".join(map(str.lower, _SPACES.sub(" ", unicodedata.normalize("NFC", text))))


def _pieces(text: str) -> Iterator[str]:
    """Split normalized text into words, single digits, contractions and runs of anything else."""
    shadow = "".join(c if c.isascii() else _CLASSES.get(unicodedata.category(c)[0], ".") for c in text)
    for match in _PIECES.finditer(shadow):
        # Special tokens in capitals come here; `ByteLevel` has a pattern of its own, which takes them to pieces.
        yield from ("<|", match[1], "|>") if match[1] else (text[match.start() : match.end()],)
