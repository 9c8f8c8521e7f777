"""Errors for Python users: messages of the library name options of the command line; here they come to name arguments.

One place for all of them, so that no function below the interface needs to know who called it.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection
from functools import wraps
from typing import ParamSpec, TypeVar

from cmexport.errors import CmexportError

_SPELLED = {
    **{name: f'precision="{name}"' for name in ("fp16", "bf16", "fp8", "int8", "w8", "w6", "w4")},
    "no-verify": "verify=False",
    "o": "out=...",
    "overwrite": "overwrite=True",
    "refit": "refit=True",
    "simplify": "simplify=True",
    "strict": "strict=True",
    "strip": "strip=True",
    "trust-checkpoint": "trust=True",
}
"""Options that have another name in Python, or say something by their presence alone."""

_SEQUENCES = ("compat", "sigmas", "sm")
_TEXTS = ("lora", "trt", "weights")

# An option may stand without its value: "leave --trt out", "give a --plan instead". A value ends its clause or stands
# before another option; elsewhere it is a number, a placeholder, or a word that some option takes.
_VALUE = (
    r"(?!instead\b|--)(?:[^\s:,;]|[:,](?!\s|$))+(?=[:,;]?(?:\s--|$)|[:,;]\s)"
    r"|\d[\d.,x]*(?=\s)|[A-Z]+\b|(?:auto|consistency|denoise|euler|exact|float|generate|heun|stroke|superres|tcd)(?=\s)"
)
_OPTION = re.compile(
    r"(?<![\w-])(?:--set (?P<field>\w+)(?:=(?P<constant>[^\s:;]*[^\s:;,]))?"
    rf"|(?:--(?P<name>[a-z]\w*(?:-\w+)*)|-(?P<short>o)\b)(?: (?P<value>{_VALUE}))?)",
    re.MULTILINE,
)
_BREAK = re.compile(r"(;\s+|,?\s+or\s+|\n)")
_VERB = re.compile(r"`cmexport (onnx|coreml|tensorrt|coreai)`")

P = ParamSpec("P")
R = TypeVar("R")


def speaks_of_arguments(*further: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a function of the Python interface: what it raises names its arguments, and no options.

    Args:
        further: arguments that its signature collects in `**`.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        known = {*inspect.signature(function).parameters, *further}

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return function(*args, **kwargs)
            except CmexportError as error:
                error.args = (in_arguments(str(error), known.union(kwargs)),)
                raise

        return call

    return decorate


def in_arguments(message: str, known: Collection[str]) -> str:
    """Write `--steps 3` as `steps=3`, and leave out clauses that advise what the function called doesn't take.

    Args:
        message: one to three lines, made for the command line.
        known: the function's arguments; with "settings" among them, the model's constants too.
    """
    first, *rest = _BREAK.split(message)
    said, _ = _translated(first, known)
    pending = ""
    for before, clause in zip(rest[::2], rest[1::2], strict=True):
        text, foreign = _translated(clause, known)
        if foreign:
            pending = pending or before
            continue
        # What followed "do this, or" follows what came before it.
        said += (pending if pending and "or" in before else before) + text
        pending = ""
    return said + "." if message.endswith(".") and not said.endswith(".") else said


def _translated(clause: str, known: Collection[str]) -> tuple[str, bool]:
    """Return the clause in Python's words, and whether it names an option that the function doesn't have."""
    said, pip, packages = clause.partition("pip install")
    foreign = False

    def spelled(match: re.Match[str]) -> str:
        nonlocal foreign
        if field := match["field"]:
            foreign |= "settings" not in known
            return field if match["constant"] is None else f"{field}={_value(field, match['constant'])}"
        option = match["name"] or match["short"]
        argument, value = _SPELLED.get(option, option.replace("-", "_")), match["value"]
        # A clause that sends the reader back to `export` speaks of that function's arguments.
        foreign |= argument.partition("=")[0] not in known and "export again" not in clause
        if value is None:
            return argument
        return f"{argument} {value}" if "=" in argument else f"{argument}={_value(argument, value)}"

    text = re.sub(r"(\w=\S*[^\s,]) (?=\w+=)", r"\1, ", _OPTION.sub(spelled, said))
    if "target" in known:
        text = _VERB.sub(r'target="\1"', text)
    return text + pip + packages, foreign


def _value(argument: str, text: str) -> str:
    if re.fullmatch(r"[A-Z]{2,}", text):
        return "..."
    if text in ("true", "false"):
        return text.capitalize()
    parts = text.split(",")
    numbers = argument not in _TEXTS and all(re.fullmatch(r"-?\d+(\.\d*)?(e-?\d+)?|N", part) for part in parts)
    shown = [part if numbers else f'"{part}"' for part in parts]
    return f"[{', '.join(shown)}]" if argument in _SEQUENCES or len(parts) > 1 else shown[0]
