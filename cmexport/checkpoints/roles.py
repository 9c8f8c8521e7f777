"""What a set of weights is to its training, told from the names that lead to it."""

from __future__ import annotations

import re
from collections.abc import Sequence

AVERAGED = "averaged"

# Words as training code writes them. Earlier rows win within one name: `non_ema` is no average.
_WORDS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("raw", re.compile(r"\b(non|no|without|wo) ?ema\b|\bonline\b|\bcurrent\b|\braw\b")),
    ("backup", re.compile(r"\bcollected\b|\bbackup\b|\bstored\b")),
    (AVERAGED, re.compile(r"\bemas?\d*\b|\bemamodel\b|\bmodelema\b|\bshadow\b|\baverag|\bavg\b|\bswa\b|\bpolyak\b")),
    ("target", re.compile(r"\btarget\b|\bmomentum\b")),
)
_TEACHER = re.compile(r"\bteacher\b|\bpretrained\b|\bfrozen\b")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def role_of(parts: Sequence[str]) -> str:
    """Return the role of the weights that entries and prefixes lead to: the innermost part that has a word decides.

    "averaged"; "target" (a target network, the slower average of consistency training); "raw"; "backup" (what an
    average put aside while it was in place: `collected_params`); "teacher" (the network that was distilled).
    """
    words = [re.sub(r"[^a-z0-9]+", " ", _CAMEL.sub(" ", part).lower()).strip() for part in parts]
    if any(_TEACHER.search(text) for text in words):
        return "teacher"
    for text in reversed(words):
        for role, pattern in _WORDS:
            # Adam's moment is called exp_avg; it is none of the weights.
            if pattern.search(text) and "exp avg" not in text:
                return role
    return "raw"
