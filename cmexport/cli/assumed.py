"""What a command says about guesses: on stderr before the work begins, and in its JSON object."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from cmexport.artifact import Manifest
from cmexport.checkpoints.selfcheck import SelfCheck, check_on_pictures
from cmexport.cli import console
from cmexport.errors import CheckpointError
from cmexport.model import LARGE_MODEL, ConsistencyModel, Setting


def tell_assumed(model: ConsistencyModel, *, strict: bool = False, idle: Collection[str] = ()) -> None:
    """Say every guessed setting with the option that sets it, and every given one that is not used.

    Raises:
        CheckpointError: `strict`, and there is a guess other than `idle` ones, which change nothing of what is asked.
    """
    for setting in model.settings:
        if setting.remark:
            console.remark(setting.remark)
    if strict and (guessed := [s for s in model.assumed if s.name not in idle]):
        listed = "; ".join(f"{s.name}={s.text} ({s.origin})" for s in guessed)
        options = " ".join(s.option for s in guessed)
        raise CheckpointError(f"{model.source.path}: --strict: guessed: {listed};\nconfirm or correct with: {options}")
    for setting in model.assumed:
        console.remark(f"assumed {setting.name}={setting.text} ({setting.origin}); to set it: {setting.option}")


def assumed_facts(settings: Iterable[Setting]) -> list[dict[str, Any]]:
    """Return the guesses among settings, for `--json`."""
    return [{"name": s.name, "value": s.value, "origin": s.origin, "option": s.option} for s in settings if s.ambiguous]


class Heard:
    """Says what is guessed of a checkpoint once it is loaded, and keeps it for `--json` as `assumed`."""

    def __init__(self, strict: bool) -> None:
        self._strict = strict
        self.assumed: list[dict[str, Any]] = []

    def __call__(self, model: ConsistencyModel) -> None:
        """Say the guesses but `levels`: an artefact's are fixed, whatever number of them the model was trained on."""
        tell_assumed(model, strict=self._strict, idle=("levels",))
        self.assumed = assumed_facts(model.settings)


def tell_recorded(manifests: Iterable[Manifest]) -> list[dict[str, Any]]:
    """Say, once each, what the exports of artefacts had guessed; the same for `--json`."""
    records = [record for manifest in manifests for record in manifest.assumed]
    different = list({record.model_dump_json(): record for record in records}.values())
    for record in different:
        console.remark(f"exported with an assumed {record.option.removeprefix('--set ')} ({record.origin})")
    return [record.model_dump(mode="json") for record in different]


def check_assumed(model: ConsistencyModel) -> tuple[str, ...]:
    """Where something was guessed: try other readings on pictures, and say which fits them best.

    Returns:
        What was said; nothing where nothing is guessed.
    """
    if not model.assumed:
        return ()
    # A picture of a large model takes a second or more: one then decides, not four.
    check = check_on_pictures(model, pictures=1 if model.parameters > LARGE_MODEL else 4)
    if check is None and model.codec is not None:
        lines = [f"none, pictures can't tell {', '.join(s.name for s in model.assumed)} of a latent model"]
    elif check is None:
        lines = [f"none, no photograph has this model's {model.channels} channels"]
    else:
        lines = verdict(check, model.assumed)
    for line in lines:
        console.remark(f"self-check: {line}")
    return tuple(lines)


def verdict(check: SelfCheck, assumed: Sequence[Setting]) -> list[str]:
    """Return what the self-check means for the guesses, in sentences."""
    if check.warnings:
        return list(check.warnings)
    lines = [f"of {len(check.interpretations)} readings the one used, {check.chosen}, denoises pictures best"]
    if len(check.interpretations) > 1:
        lines[0] += f", {check.margin:.2f} times better than the next"
    tried = {name for reading in check.interpretations for name in reading.fields}
    if left := [s.name for s in assumed if s.name not in tried]:
        lines[0] += f"; pictures can't tell {', '.join(left)}"
    return lines
