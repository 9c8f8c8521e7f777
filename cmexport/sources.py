"""Draw pictures from a checkpoint or a written artefact: seed by seed, or from given arrays."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import cast

import numpy as np
import torch

from cmexport import noise as portable_noise
from cmexport.artifact import Manifest, read_manifest
from cmexport.errors import UsageError
from cmexport.labels import number_of
from cmexport.model import ConsistencyModel, SampleRequest, Setting
from cmexport.parity.gates import byte_gate, gate_of
from cmexport.parity.inputs import draw_inputs
from cmexport.parity.metrics import PictureDifference, compare
from cmexport.recorded import artifact_rungs, request_of
from cmexport.runner import Array, Runner, picture_of
from cmexport.sampling.editing import task_named
from cmexport.sampling.methods import resolve
from cmexport.sampling.reference import TorchRunner
from cmexport.signature import Input, Signature, known
from cmexport.signature.laws import Normal, Range
from cmexport.tokenizer import Tokenizer, read_tokenizer

TORCH = "torch"
NOISES = (TORCH, portable_noise.NAME)
"""How noise is made of a seed: by PyTorch's generator, or so that apps in any language make the same."""


@dataclass(frozen=True)
class PictureSource:
    """A model or an artefact that pictures can be drawn with.

    Attributes:
        signature: what it takes and gives.
        open: opens it.
        request: task, schedule and the rest of what it was made for.
        labels: names of the classes, where known.
        tokenizer: reads what makes tokens of prompts, where some are taken.
        usual: settings of the model that inputs have where nobody gives another value: a guidance scale. Pictures at
            scales drawn from all that the input takes would differ by more than their seeds.
    """

    signature: Signature
    open: Callable[[], Runner]
    request: SampleRequest = field(default_factory=SampleRequest)
    labels: tuple[str, ...] = ()
    tokenizer: Callable[[], Tokenizer | None] = lambda: None
    usual: tuple[Setting, ...] = ()


def source_from_model(model: ConsistencyModel, request: SampleRequest) -> PictureSource:
    """Make a source of the PyTorch reference of a checkpoint."""
    sampler = resolve(model, request)
    opened, usual = partial(TorchRunner, sampler), usual_settings(sampler.signature, model.settings)
    return PictureSource(sampler.signature, opened, request, model.labels, lambda: model.tokenizer, usual)


def usual_settings(signature: Signature, settings: Iterable[Setting]) -> tuple[Setting, ...]:
    """Find settings of a model that its inputs have where nobody gives another value: a guidance scale."""
    # Names alone say nothing: `renoise` is an input, and the rule by which a model's noise is added.
    scales = {i.name for i in signature.inputs if isinstance(i.law, Range)}
    return tuple(setting for setting in settings if setting.name in scales)


def source_from_artifact(folder: Path, function: str | None = None) -> PictureSource:
    """Make a source of an artefact in the runtime it was made for; `function` chooses a graph, default the first.

    Raises:
        CheckpointError: the artefact is damaged.
        UsageError: it has no graph of that name.
    """
    return _source(folder, read_manifest(folder).function(function))


def _source(folder: Path, manifest: Manifest) -> PictureSource:
    shipped = artifact_rungs(folder, manifest)[-1]
    tokenizer = partial(read_tokenizer, folder / "tokenizer")
    usual = usual_settings(manifest.signature, (record.setting for record in manifest.checkpoint.settings))
    labels, request = manifest.labels or (), request_of(manifest)
    return PictureSource(manifest.signature, shipped.open, request, labels, tokenizer, usual)


def require_noise(noise: str) -> None:
    """Ask whether noise is made in one of the known ways.

    Raises:
        UsageError: it is not.
    """
    if noise not in NOISES:
        raise UsageError(f"--noise {noise}: known are {', '.join(NOISES)}")


def draw_pictures(
    source: PictureSource,
    count: int,
    seed: int = 0,
    given: Mapping[str, Array | float | str] = MappingProxyType({}),
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    prompts: Sequence[str] = (),
    noise: str = TORCH,
) -> Array:
    """`count` pictures; picture i has seed `seed` + i, and what is neither given nor usual is drawn.

    Args:
        source: what draws.
        count: how many.
        seed: seed of picture 0.
        given: by input, the same for every picture: a class, by number or name; a picture (C, H, W) to edit and
            its mask (1, H, W).
        progress: told about every run.
        prompts: what the pictures show, in turn.
        noise: how noise is made of a seed: "torch", PyTorch's generator, or "cmx1", which apps have too.

    Raises:
        UsageError: a class or prompt the source does not have, a count below 1, or a picture to edit that is missing or
            too much.
        CheckpointError: an artefact's tokenizer is damaged.
    """
    if missing := [i.name for i in source.signature.given if i.name not in given]:
        raise UsageError(f"task {source.request.task} edits a picture: give --{missing[0]} FILE")
    given = _checked(source, given)
    inputs = draw_inputs(source.signature, count, seed)
    fixed = source.signature.spread({name: np.asarray(value) for name, value in given.items()})
    asked = _in_turn(source, prompts)
    portable = _noise_maker(source.signature, noise)
    batch = source.signature.batch
    runs = ({**run, **portable(seed + n * batch), **fixed, **asked(n)} for n, run in enumerate(inputs))
    return run_all(source, runs, len(inputs), progress)[:count]


def draw_between(
    source: PictureSource,
    first: int,
    second: int,
    count: int,
    given: Mapping[str, Array | float | str] = MappingProxyType({}),
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    prompts: Sequence[str] = (),
    noise: str = TORCH,
) -> Array:
    """`count` pictures on the way from seed `first` to seed `second`: their noises, interpolated on the sphere.

    All have one class or prompt, the one given or else that of seed `first`; later steps' noises are interpolated as
    well.

    Raises:
        UsageError: a class or prompt the source does not have, several prompts, fewer than 2 pictures, or a source that
            edits pictures.
    """
    given = _checked(source, given)
    if count < 2:
        raise UsageError(f"--interpolate {first},{second}: at least 2 pictures are needed, not {count}")
    if source.signature.given:
        raise UsageError(f"--interpolate: task {source.request.task} edits a picture; only generated ones have a way")
    if len(prompts) > 1:
        raise UsageError(f"--interpolate {first},{second}: all pictures show one prompt, not {len(prompts)}")
    single = source.signature.with_batch(1)
    fixed = single.spread({name: np.asarray(value) for name, value in given.items()})
    fixed |= _in_turn(replace(source, signature=single), prompts)(0)
    portable = _noise_maker(single, noise)
    start, end = ({**single.draw(seed), **portable(seed), **fixed} for seed in (first, second))
    # Whole runs of the graph; what is too much is cut off again.
    padded = -(-count // source.signature.batch) * source.signature.batch
    weights = [min(i, count - 1) / (count - 1) for i in range(padded)]
    arrays = single.join([single.between(start, end, weight) for weight in weights])
    runs = source.signature.batches(arrays)
    return run_all(source, runs, len(runs), progress)[:count]


def cmx1_noise(signature: Signature, seed: int) -> dict[str, Array]:
    """Make the noise of one run by `cmexport.noise`: picture j of it has `seed` + j.

    Args:
        signature: the graph's border; every input whose law is normal is made.
        seed: 0 to 2^64 - 1, of the run's first picture.
    """
    made = {}
    for i in signature.inputs:
        if not isinstance(i.law, Normal):
            continue
        if later := bool(i.batch_axis):
            one, streams = i.picture_shape[1:], range(1, i.picture_shape[0] + 1)
        else:
            one, streams = i.picture_shape, range(1)
        pictures = [
            np.stack([portable_noise.draw(seed + j, math.prod(one), stream).reshape(one) for stream in streams])
            for j in range(signature.batch)
        ]
        made[i.name] = i.stack(pictures if later else [picture[0] for picture in pictures])
    return made


def _noise_maker(signature: Signature, noise: str) -> Callable[[int], dict[str, Array]]:
    """Return a function from a run's seed to the inputs that replace PyTorch's noise."""
    require_noise(noise)
    return (lambda _: {}) if noise == TORCH else partial(cmx1_noise, signature)


def _in_turn(source: PictureSource, prompts: Sequence[str]) -> Callable[[int], dict[str, Array]]:
    """Return a function from the number of a run to what its pictures say, the prompts in turn."""
    if not prompts:
        return lambda _: {}
    taking, parts = _worded(source, prompts)
    batch = source.signature.batch
    return lambda run: {taking.name: taking.stack([parts[(run * batch + i) % len(parts)] for i in range(batch)])}


def _worded(source: PictureSource, prompts: Sequence[str]) -> tuple[Input, list[Array]]:
    """Return the input that prompts are for, and each one's part of it."""
    names = source.signature.names
    if source.request.prompt is not None:
        raise UsageError(f"--prompt: {source.request.prompt!r} is baked in; export again for other prompts")
    if known.EMBEDDINGS in names:
        raise UsageError("--prompt: takes embeddings, a text encoder's output; give them with --inputs FILE.npz")
    taking = next((i for i in source.signature.inputs if i.worded), None)
    if taking is None:
        raise UsageError("--prompt: this model takes no prompt")
    if taking.count is not None:
        return taking, [np.asarray(_number_of(prompt, source.request.prompts)) for prompt in prompts]
    tokenizer = source.tokenizer()
    assert tokenizer is not None
    return taking, [np.asarray(tokenizer.encode(prompt)) for prompt in prompts]


def _number_of(prompt: str, known: Sequence[str]) -> int:
    """Find a prompt in a closed list; capitals and spaces don't count, as they don't for CLIP's tokenizer."""
    folded = [" ".join(text.split()).casefold() for text in (prompt, *known)]
    if prompt in known:
        return known.index(prompt)
    if folded[0] in folded[1:]:
        return folded.index(folded[0], 1) - 1
    few = ", ".join(known) if len(known) <= 20 else f"{', '.join(known[:20])}, ..."
    raise UsageError(f"--prompt: {prompt!r} is not in the closed list that this was exported for: {few}")


def _checked(source: PictureSource, given: Mapping[str, Array | float | str]) -> dict[str, Array | float]:
    """With the number of a class in place of its name, and what is usual where nothing is given."""
    inputs, checked = {i.name: i for i in source.signature.inputs}, {}
    usual = {setting.name: cast(float, setting.value) for setting in source.usual}
    for name, value in {**usual, **given}.items():
        if name not in inputs:
            raise UsageError(f"--{name}: task {source.request.task} of this model takes none")
        count = inputs[name].count
        labels = source.labels if inputs[name] == source.signature.choice else ()
        checked[name] = number_of(value, labels, count) if isinstance(value, str) else value
        if count is not None and not 0 <= int(checked[name]) < count:
            raise UsageError(f"--{name} {value}: out of range, this model has {name}s 0 to {count - 1}")
        limits = None if inputs[name].law is None else inputs[name].drawn.limits
        if limits is not None and np.ndim(checked[name]) == 0 and not limits[0] <= float(checked[name]) <= limits[1]:
            raise UsageError(f"--{name} {value}: out of range, this model takes {limits[0]:g} to {limits[1]:g}")
    return checked


def shown_to_people(source: PictureSource, given: Mapping[str, Array]) -> Array:
    """Show what an editing graph knows of a picture, (C, H, W): kept pixels, the grey picture, coarse blocks."""
    build = task_named(source.request.task).build
    assert build is not None
    tensors = [torch.from_numpy(np.asarray(given[i.name], dtype=np.float32))[None] for i in source.signature.given]
    shown: Array = build(source.request).shown(tensors[0], next(iter(tensors[1:]), None))[0].numpy()
    return shown


def run_all(
    source: PictureSource,
    runs: Iterable[Mapping[str, Array]],
    total: int,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Array:
    """Draw every run's pictures and join them."""
    pictures = []
    with source.open() as runner:
        for done, run in enumerate(runs):
            progress(done, total)
            pictures.append(picture_of(runner(run)))
    return np.concatenate(pictures)


@dataclass(frozen=True)
class ArrayComparison:
    """An artefact's pictures against given ones; `gate_db` is the precision's gate as it applies to the output."""

    difference: PictureDifference
    gate_db: float

    @property
    def passed(self) -> bool:
        """Whether the gate is met."""
        return self.difference.passes(self.gate_db)


def compare_arrays(
    folder: Path, inputs: Mapping[str, Array], expected: Array, function: str | None = None
) -> ArrayComparison:
    """Run a written artefact (`function` of it, or the first graph) on given inputs; compare with given pictures.

    Raises:
        CheckpointError: the artefact is damaged, or the arrays don't fit it.
        UsageError: it has no graph of that name.
    """
    manifest = read_manifest(folder).function(function)
    source = _source(folder, manifest)
    runs = source.signature.batches(inputs)
    pictures = run_all(source, runs, len(runs))
    gate = gate_of(manifest.precision, manifest.numerics)
    shown = source.signature.output.as_pictures
    return ArrayComparison(
        compare(shown(expected), shown(pictures)), byte_gate(gate) if pictures.dtype == np.uint8 else gate
    )
