"""Names of models, classes and prompts as identifiers of programming languages, each one legal and unique."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from importlib.resources import files

STYLES = ("snake", "pascal", "camel", "screaming")

# Words that none of Python, C++, JavaScript, Kotlin and Swift takes for the name of a function, field or constant.
_RESERVED = frozenset(files("cmexport.kits").joinpath("reserved.txt").read_text(encoding="utf-8").split())


def words_of(text: str) -> tuple[str, ...]:
    """Split a name into its words of ASCII letters and digits: "Tench, Tinca tinca" is tench, tinca, tinca.

    Accents are dropped; letters that have no ASCII form count as spaces.
    """
    plain = unicodedata.normalize("NFKD", text)
    plain = "".join(c for c in plain if not unicodedata.combining(c)).encode("ascii", "replace").decode()
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", plain)
    return tuple(word.lower() for word in re.findall(r"[A-Za-z0-9]+", apart))


def identifier(text: str, style: str, otherwise: str = "model") -> str:
    """Spell a name in a style: "snake", "pascal", "camel" or "screaming".

    Args:
        text: the name.
        style: one of `STYLES`.
        otherwise: stands before a name that begins with a digit, and for one without a letter or digit.
    """
    words = words_of(text)
    if not words or words[0][0].isdigit():
        words = (*words_of(otherwise), *words)
    spelled = {
        "snake": "_".join(words),
        "screaming": "_".join(words).upper(),
        "pascal": "".join(word[0].upper() + word[1:] for word in words),
        "camel": words[0] + "".join(word[0].upper() + word[1:] for word in words[1:]),
    }[style]
    return f"{spelled}_" if spelled.lower() in _RESERVED else spelled


def identifiers(names: Sequence[str], style: str, otherwise: str = "item") -> tuple[str, ...]:
    """Spell a list of names so that no two are equal: of equal ones the later get a number, "crane", "crane2"."""
    taken: set[str] = set()
    spelled = []
    for name in names:
        wanted = identifier(name, style, otherwise)
        joint = "_" if style in ("snake", "screaming") or wanted[-1].isdigit() else ""
        free = wanted
        count = 1
        # Apps' tools compare names without their case in places, as file names of classes.
        while free.lower() in taken:
            count += 1
            free = f"{wanted}{joint}{count}"
        taken.add(free.lower())
        spelled.append(free)
    return tuple(spelled)


def _in_style(style: str) -> Callable[[str], str]:
    return lambda text: identifier(text, style)


FILTERS = {style: _in_style(style) for style in STYLES}
"""The styles as filters of templates."""
