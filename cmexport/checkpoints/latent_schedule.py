"""The scheduler of a latent model: its configuration's own, or the one that the weights were distilled for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cmexport.alphas import AlphaSchedule, kind_of
from cmexport.checkpoints.lora import lora_choices
from cmexport.checkpoints.lora.accelerating import few_step_kind
from cmexport.checkpoints.settings import Default, Settings

SETTING = "scheduler"


def schedule_of(config: Mapping[str, Any], where: Path, settings: Settings, origin: str) -> AlphaSchedule:
    """Read a diffusers scheduler_config.json under the rule that `--set scheduler` names, else under its own.

    A checkpoint that a few-step LoRA is merged into has the scheduler of 50 steps that its author had: the table of
    levels is the same, as in `LCMScheduler.from_config(pipe.scheduler.config)`. Without a word the LoRA's name decides,
    which is a guess.

    Args:
        config: the file's content.
        where: the file, for errors.
        settings: collects the decision.
        origin: what says the configuration, for settings.

    Raises:
        CheckpointError: a scheduler of many steps and nothing that names another, or see `AlphaSchedule.from_config`.
    """
    said = settings.said(SETTING)
    decided = Default(kind_of(config), origin)
    named = said
    if said is None and decided.value is None and (guess := lora_guess(settings)) is not None:
        decided, named = guess, guess.value
    schedule = AlphaSchedule.from_config(config, where, None if named is None else str(named))
    settings.choose(SETTING, decided, decided)
    return schedule


def lora_guess(settings: Settings) -> Default | None:
    """Return the kind that a LoRA's name suggests; None where none does, or none is merged."""
    said = settings.said("lora")
    for choice in () if said is None else lora_choices(str(said)):
        if found := few_step_kind(choice):
            return Default(found[0], f"guess: the LoRA is called {found[1]}", ambiguous=True)
    return None
