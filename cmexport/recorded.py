"""From a written artefact back to what it was exported from: its checkpoint, its sampler, its rungs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cmexport.artifact import Manifest
from cmexport.artifact.manifest import CheckpointRecord, WordingRecord
from cmexport.checkpoints import load_checkpoint
from cmexport.checkpoints.choosing import UnknownWeightsError, chosen_weights
from cmexport.checkpoints.consent import remembered
from cmexport.checkpoints.own_module import module_file
from cmexport.checkpoints.reading import file_facts
from cmexport.demo import DEMOS, demo_checkpoint
from cmexport.errors import CheckpointError, UsageError
from cmexport.model import ConsistencyModel, SampleRequest, Setting
from cmexport.naming import shown_name
from cmexport.parity.chain import chained
from cmexport.parity.ladder import Rung
from cmexport.sampling.evaluations import levels_of
from cmexport.sampling.methods import resolve
from cmexport.sampling.resolved import Sampler
from cmexport.signature import Range, Signature, known
from cmexport.targets.base import Target
from cmexport.targets.registry import target_named


class CheckpointGoneError(UsageError):
    """The checkpoint of an artefact is not where it was, or is another one now."""


def lowered_files(manifest: Manifest) -> tuple[str, ...]:
    """List the files of all graphs, relative to the artefact's folder, the one to open first."""
    return tuple(dict.fromkeys(path for graph in manifest.graphs for path in graph.files))


def artifact_rungs(folder: Path, manifest: Manifest) -> tuple[Rung, ...]:
    """Make the ladder of a written artefact's first run."""
    session = {"ep": manifest.session.ep, **manifest.session.options}
    by_name = {graph.name: graph for graph in manifest.graphs}
    graphs = [by_name[name] for name in manifest.runs[manifest.function_names[0]]]
    parts = [(g.name, g.files, session, g.signature.signature) for g in graphs]
    return graph_rungs(target_named(manifest.target), folder, parts, len(graphs) > 1)


def graph_rungs(
    target: Target,
    folder: Path,
    graphs: Sequence[tuple[str, tuple[str, ...], Mapping[str, Any], Signature]],
    several: bool,
) -> tuple[Rung, ...]:
    """Make the ladder of graphs that run in turn.

    Args:
        target: that wrote them.
        folder: they lie in.
        graphs: of each its name, files, session and border.
        several: whether the artefact has more than one, so that a file may hold several under their names.
    """
    return chained(
        [
            (name, target.rungs(folder, files, {**session, "function": name} if several else session), signature.names)
            for name, files, session, signature in graphs
        ]
    )


def request_of(manifest: Manifest) -> SampleRequest:
    """Recover the request that an artefact was exported for."""
    signature = manifest.signature
    return SampleRequest(
        sigmas=levels_of(manifest.sampling.sigmas),
        label=manifest.label,
        batch=signature.batch,
        output="uint8" if signature.output.is_bytes else "float",
        task=manifest.task,
        patch=manifest.patch,
        schedule=manifest.sampling.schedule,
        sampler=manifest.sampling.sampler,
        eta=manifest.sampling.eta,
        gamma=manifest.sampling.gamma,
        levels_of={i.name: i.law.steps for i in signature.inputs if isinstance(i.law, Range) and i.law.steps},
        output_transform=None if manifest.sampling.transform is None else manifest.sampling.transform.name,
        **({} if manifest.wording is None else _wording(manifest.wording)),
    )


def _wording(record: WordingRecord) -> dict[str, Any]:
    """Recover what a request says of prompts."""
    return {
        "prompt": record.prompts[0] if record.condition == known.BAKED else None,
        "prompts": record.prompts if record.condition == known.PROMPT else (),
        "condition": known.EMBEDDINGS if record.condition == known.EMBEDDINGS else known.TOKENS,
        "guidance": record.guidance,
        "guidance_input": record.guidance_input,
        "calibration_prompts": record.calibration_prompts,
    }


def sampler_of(model: ConsistencyModel, manifest: Manifest) -> Sampler:
    """Recover what an artefact was exported from, out of its checkpoint.

    Raises:
        CheckpointError: they don't belong together.
    """
    sampler = resolve(model, request_of(manifest))
    if not sampler.signature.takes_as(border := manifest.signature):
        raise CheckpointError(
            f"{model.source.path}: this checkpoint doesn't fit the artefact, whose inputs are "
            f"{', '.join(f'{i.name} {i.shape}' for i in border.inputs)}"
        )
    return sampler


def checkpoint_of(
    manifest: Manifest,
    against: str | None,
    overrides: Mapping[str, str],
    *,
    weights: str | None = None,
    trust: bool = False,
) -> ConsistencyModel:
    """Load the checkpoint to verify an artefact against, with the constants and weights it was exported with.

    Args:
        manifest: of the artefact.
        against: a checkpoint to take instead of the recorded one.
        overrides: `--set` fields.
        weights: which set of weights, instead of the recorded one.
        trust: let a pickle, or a Python module that the manifest names, run its own code.

    Raises:
        CheckpointGoneError: none was given, and the recorded one is not there any more.
        UsageError: it is code that was not named.
        CheckpointError: the file can't be used.
    """
    record = manifest.checkpoint
    # What the user set then is set again; what was inferred or defaulted is found again.
    settings = {s.name: _text(s.value) for s in record.settings if s.origin.startswith("--set")} | dict(overrides)
    wanted = weights or chosen_weights(record.settings)
    if "lora" not in overrides:
        _require_loras(record)
    # Guesses are kept: another version may guess otherwise, and the file holds the reading of then.
    guesses = tuple(a.setting for a in manifest.assumed if a.name not in settings)
    as_then = {**settings, **{guess.name: guess.text for guess in guesses}}
    if against is not None:
        try:
            model = load_checkpoint(against, settings, trust=trust, weights=wanted)
        except UnknownWeightsError:
            if weights is not None:
                raise
            # Another checkpoint, whose sets have names of their own.
            return load_checkpoint(against, settings, trust=trust)
        if model.source.sha256 != record.sha256 or _agrees(model, guesses):
            return model
        return _as_guessed(load_checkpoint(against, as_then, trust=trust, weights=wanted), guesses)
    if record.reference:
        candidates: tuple[str | Path, ...] = (_allowed(record.reference, trust),)
    else:
        candidates = tuple(p for p in (Path(record.path), *map(demo_checkpoint, DEMOS)) if _may_be(p, record))
    for candidate in candidates:
        model = load_checkpoint(candidate, as_then, trust=trust, weights=wanted)
        if model.source.sha256 == record.sha256:
            return _as_guessed(model, guesses)
    changed = bool(record.reference) or Path(record.path).exists()
    where = record.reference or record.path
    gone = f"at {where} is another one than at the export" if changed else f"is not at {where} any more"
    raise CheckpointGoneError(
        f"the checkpoint {record.file} {gone}; name it: --against CKPT\n"
        "or compare with recorded pictures: --inputs x.npz --expected y.npz"
    )


def _require_loras(record: CheckpointRecord) -> None:
    for lora in record.loras:
        path = Path(lora.path)
        if not path.is_file() or file_facts(path).sha256 != lora.sha256:
            gone = f"at {path} is another one than at the export" if path.exists() else f"is not at {path} any more"
            raise CheckpointGoneError(
                f"the LoRA {lora.file} {gone}; name it: --lora FILE:{lora.scale:g}\n"
                "or compare with recorded pictures: --inputs x.npz --expected y.npz"
            )


def _agrees(model: ConsistencyModel, guesses: Sequence[Setting]) -> bool:
    found = {s.name: s.value for s in model.settings}
    return all(found.get(guess.name) == guess.value for guess in guesses)


def _as_guessed(model: ConsistencyModel, guesses: Sequence[Setting]) -> ConsistencyModel:
    """Mark recorded guesses as guesses still: loading took them for `--set`."""
    still = {guess.name: guess for guess in guesses}
    return replace(model, settings=tuple(still.get(s.name, s) for s in model.settings))


def _may_be(candidate: Path, record: CheckpointRecord) -> bool:
    """Whether reading a path is worth it: a file of another size is another file, and so a folder elsewhere."""
    if module_file(str(candidate)) is not None:
        return False  # A path that reads as module.py:build would be run.
    if candidate.is_dir():
        return str(candidate) == record.path or shown_name(candidate) == record.file
    return candidate.is_file() and candidate.stat().st_size == record.bytes


def _allowed(reference: str, trust: bool) -> str:
    """Return the reference itself, unless it is code that nobody here asked to run."""
    module = module_file(reference)
    if module is None or trust or remembered(module):
        return reference
    raise UsageError(
        f"made from {reference}, which is Python code, and a manifest is no reason to run it;\n"
        f"name it: --against {reference}, or --trust-checkpoint"
    )


def _text(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
