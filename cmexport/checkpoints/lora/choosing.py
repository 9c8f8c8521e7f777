"""`--lora FILE[:scale]` and `--set lora=FILE[:scale],...`: from texts to files and scales, and back."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class LoraChoice:
    """A file to merge, and the factor of what it adds; negative: what it adds is taken away."""

    path: Path
    scale: float = 1.0

    @property
    def text(self) -> str:
        """As the setting `lora` has it, with the scale said even if it is 1: a file's name may end in `:2`."""
        return f"{self.path}:{repr(self.scale).removesuffix('.0')}"


def lora_choices(text: str) -> tuple[LoraChoice, ...]:
    """Read `FILE[:scale]`, several with commas between; paths become absolute.

    Raises:
        ValueError: no file, one that comes twice, or a scale that is 0 or not finite; the message begins with "must".
    """
    choices = tuple(_choice(part.strip()) for part in text.split(","))
    if len({choice.path for choice in choices}) < len(choices):
        raise ValueError("must name each file once")
    return choices


def lora_text(choices: Iterable[LoraChoice]) -> str:
    """Write what `lora_choices` reads."""
    return ",".join(choice.text for choice in choices)


def _choice(text: str) -> LoraChoice:
    name, colon, number = text.rpartition(":")
    scale = 1.0
    # A file of that very name is meant before a scale is: `style:2`. What is no number belongs to the name: `C:\x`.
    if colon and not Path(text).expanduser().is_file():
        try:
            scale = float(number)
        except ValueError:
            name = text
    else:
        name = text
    if not name:
        raise ValueError("must be FILE or FILE:scale, several with commas between")
    if not math.isfinite(scale) or scale == 0.0:
        raise ValueError("must have a scale other than 0: leave a LoRA out that is to do nothing")
    return LoraChoice(Path(name).expanduser().absolute(), scale)
