"""Stable Diffusion XL's two tokenizers: the second's ids out of the first's, so that a graph takes one prompt.

Both are CLIP's, and the second pads with "!" (id 0) instead of the end. A token that pads is a special one: it is found
in text as it stands, before words are split. So "hi!" ends with 0 there and with "!</w>" (256) in the first.

That holds token by token where "!" stands alone between words. Next to other punctuation, "?!" or "!!", the first may
have one token for both characters, and the second has two: then the second text encoder is told that one token too,
which it was trained with as well (OpenCLIP's own tokenizer knows no padding in text), and diffusers tells it zeros.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cmexport.tokenizer.clip import Tokenizer


@dataclass(frozen=True)
class Translation:
    """From ids of one tokenizer to those of another.

    Attributes:
        end: ends prompts in both.
        pad: pads the second's, after the first `end`.
        replaced: ids of the first, with the second's for them.
    """

    end: int
    pad: int
    replaced: Mapping[int, int]

    def of(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        """Translate an encoded prompt."""
        ends = ids.index(self.end)
        said = (self.replaced.get(number, number) for number in ids[: ends + 1])
        return (*said, *[self.pad] * (len(ids) - ends - 1))


def translation(first: Tokenizer, second: Tokenizer) -> Translation | None:
    """Find what makes the second's ids of the first's; None where they differ in more than special words."""
    same = ("vocabulary", "merges", "begin", "end", "length")
    if any(getattr(first, name) != getattr(second, name) for name in same):
        return None
    # By text and id: how a special token is looked for matters to prompts that spell it out.
    here, there = ({special.text: special.id for special in one.specials} for one in (first, second))
    if here.items() - there.items():
        return None
    replaced = {}
    for text in sorted(there.keys() - here.keys()):
        words = first.words(text)
        if len(words) != 1:
            return None
        replaced[words[0]] = there[text]
    return Translation(first.end, second.pad, replaced)
