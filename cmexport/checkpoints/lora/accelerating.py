"""Which few-step rule a LoRA was distilled for, as far as its name tells: LCM-LoRA, TCD-LoRA, Hyper-SD."""

from __future__ import annotations

import re

from cmexport.checkpoints.lora.choosing import LoraChoice
from cmexport.checkpoints.reading import container_of
from cmexport.checkpoints.safetensors_file import metadata_of

# latent-consistency/lcm-lora-sdv1-5, h1t/TCD-SD15-LoRA, ByteDance/Hyper-SD, whose card takes TCD's steps.
_NAMES = (
    (re.compile(r"(?<![a-z])lcm(?![a-z])"), "lcm"),
    (re.compile(r"(?<![a-z])tcd(?![a-z])"), "tcd"),
    (re.compile(r"(?<![a-z])hyper[-_ ]?sd"), "tcd"),
)
# What kohya's scripts and modelspec call a file's title.
_TITLES = ("ss_output_name", "modelspec.title", "ss_training_comment")


def few_step_kind(choice: LoraChoice) -> tuple[str, str] | None:
    """Return a scheduler's kind and the text that says it; None where nothing does.

    What a hub's folder is called counts, since diffusers calls the file itself `pytorch_lora_weights.safetensors`.
    """
    path = choice.path
    if not path.is_file():
        return None  # The reading that follows says so.
    titles = [path.stem, path.parent.name]
    if container_of(path) == "safetensors":
        metadata = metadata_of(path)
        titles += [metadata[title] for title in _TITLES if title in metadata]
    for title in titles:
        for pattern, kind in _NAMES:
            if pattern.search(title.lower()):
                return kind, title[:80]
    return None
