"""What a recipe may name: targets by their registry; the others' would load torch (2.5 s), and a test compares them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from cmexport.targets.registry import INFOS

if TYPE_CHECKING:
    TargetName = str
    Precision = str
    Output = str
else:
    TargetName = Literal[tuple(INFOS)]
    Precision = Literal[tuple(p for info in INFOS.values() for p in info.precisions)]
    Output = Literal[tuple(word for info in INFOS.values() for word in info.outputs)]
TaskName = Literal["generate", "inpaint", "colorize", "superres", "stroke", "denoise"]
Condition = Literal["tokens", "embeddings"]
TOKENS, EMBEDDINGS = get_args(Condition)
Sampler = Literal["consistency", "heun", "exact", "gamma", "euler", "tcd"]
LOOPED: frozenset[str] = frozenset({"heun"})
"""Samplers that run as a loop, which not every target writes."""


def owners(key: str) -> list[str]:
    """The targets that have an option, by its key in a recipe."""
    return [name for name, info in INFOS.items() if key in info.by_key]
