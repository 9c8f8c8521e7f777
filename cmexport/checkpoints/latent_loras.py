"""The LoRA files of a latent model: which are asked for, and what each part gets of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cmexport.checkpoints.latent_parts import TEXTS, Part, Parts
from cmexport.checkpoints.lora import LoraChoice, LoraMerger, lora_choices, lora_text
from cmexport.checkpoints.settings import Default, Settings
from cmexport.model import Lora

SETTING = "lora"


def loras_of(settings: Settings) -> LoraMerger:
    """Read the files that the setting `lora` names.

    Raises:
        CheckpointError: see `lora.reading.read_lora`.
    """
    said = settings.said(SETTING)
    return LoraMerger(() if said is None else lora_choices(str(said)))


def with_loras(parts: Parts, merger: LoraMerger) -> Parts:
    """Return parts whose UNet and text encoders are changed as they are read."""

    def merging(name: str, part: Part) -> Part:
        return part.changed(lambda state: merger.merged(name, state))

    texts = [replace(t, encoder=merging(name, t.encoder)) for name, t in zip(TEXTS, parts.texts, strict=False)]
    return replace(parts, texts=tuple(texts), unet=merging("unet", parts.unet))


def note_loras(settings: Settings, loras: Sequence[Lora]) -> None:
    """Record them as a setting, with what the user should hear of their names."""
    if not loras:
        return
    settings.choose(SETTING, Default(lora_text(LoraChoice(lora.path, lora.scale) for lora in loras), "--lora"))
    twice = [f"{lora.path}: {lora.dropped} layers are there twice" for lora in loras if lora.dropped]
    if twice:
        remark = f"{'; '.join(twice)}; taken are those with diffusers' names, as diffusers does"
        settings.resolved[SETTING] = replace(settings.resolved[SETTING], remark=remark)
