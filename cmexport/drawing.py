"""Draw pictures from a checkpoint or a written artefact: seed by seed, or from given arrays."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from cmexport.artifact import Manifest, read_manifest
from cmexport.errors import CheckpointError, UsageError
from cmexport.files import require_file
from cmexport.graph.capture import graph_inputs
from cmexport.model import ConsistencyModel, SampleRequest, TensorSpec
from cmexport.parity.gates import byte_gate
from cmexport.parity.inputs import batch_of, draw_inputs, split_inputs
from cmexport.parity.metrics import PictureDifference, compare
from cmexport.runner import Array, Runner
from cmexport.sampling.chosen import plan_request
from cmexport.sampling.editing import interpolate, task_named
from cmexport.sampling.reference import TorchRunner
from cmexport.verification import artifact_rungs, gate_of, request_of


@dataclass(frozen=True)
class PictureSource:
    """Something that draws.

    Attributes:
        inputs: what it takes.
        classes: its number of classes, if any.
        open: opens it.
        request: task, schedule and the rest of what it was made for.
    """

    inputs: tuple[TensorSpec, ...]
    classes: int | None
    open: Callable[[], Runner]
    request: SampleRequest = field(default_factory=SampleRequest)

    @property
    def batch(self) -> int:
        """Pictures per run."""
        return batch_of(self.inputs)

    @property
    def picture_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one picture."""
        _, channels, height, width = next(s.shape for s in self.inputs if s.name in ("noise", "image"))
        return channels, height, width

    def takes(self, name: str) -> bool:
        """Whether the graph has this input."""
        return any(s.name == name for s in self.inputs)


def source_from_model(model: ConsistencyModel, request: SampleRequest) -> PictureSource:
    """The PyTorch reference of a checkpoint."""
    plan = plan_request(model, request)
    inputs = graph_inputs(model, plan, request)
    return PictureSource(inputs, model.conditioning.classes, partial(TorchRunner, model, plan, request), request)


def source_from_artifact(folder: Path, function: str | None = None) -> PictureSource:
    """A written artefact in the runtime it was made for; `function` chooses among several graphs, default the first.

    Raises:
        CheckpointError: the artefact is damaged.
        UsageError: it has no graph of that name.
    """
    return _source(folder, read_manifest(folder).function(function))


def _source(folder: Path, manifest: Manifest) -> PictureSource:
    shipped = artifact_rungs(folder, manifest)[-1]
    inputs = tuple(t.spec for t in manifest.inputs)
    return PictureSource(inputs, manifest.classes, shipped.open, request_of(manifest))


def draw_pictures(
    source: PictureSource,
    count: int,
    seed: int = 0,
    label: int | None = None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    *,
    given: Mapping[str, Array] | None = None,
) -> Array:
    """`count` pictures; picture i has seed `seed` + i and, where the source takes labels, `label` or i mod classes.

    Args:
        source: what draws.
        count: how many.
        seed: seed of picture 0.
        label: one class for all.
        progress: told about every run.
        given: `image` (C, H, W) and `mask` (1, H, W) to edit, the same for every picture.

    Raises:
        UsageError: a label the source does not have, a count below 1, or a picture to edit that is missing or too much.
    """
    _check_label(source, label)
    given = given or {}
    wanted = {name for name in ("image", "mask") if source.takes(name)}
    if missing := sorted(wanted - set(given)):
        raise UsageError(f"task {source.request.task} edits a picture: give --{missing[0]} FILE")
    if extra := sorted(set(given) - wanted):
        raise UsageError(f"--{extra[0]}: task {source.request.task} takes none")
    inputs = draw_inputs(source.inputs, source.classes, count, seed)
    fixed = {name: np.stack([array] * source.batch).astype(np.float32) for name, array in given.items()}
    runs: Iterable[dict[str, Array]] = ({**run, **fixed} for run in inputs)
    if label is not None:
        runs = ({**run, "label": np.full_like(run["label"], label)} for run in runs)
    return run_all(source, runs, len(inputs), progress)[:count]


def draw_between(
    source: PictureSource,
    first: int,
    second: int,
    count: int,
    label: int | None = None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Array:
    """`count` pictures on the way from seed `first` to seed `second`: their noises, interpolated on the sphere.

    All have one label, `label` or else that of seed `first`; later steps' noises are interpolated as well.

    Raises:
        UsageError: a label the source does not have, fewer than 2 pictures, or a source that edits pictures.
    """
    _check_label(source, label)
    if count < 2:
        raise UsageError(f"--interpolate {first},{second}: at least 2 pictures are needed, not {count}")
    if source.takes("image"):
        raise UsageError(f"--interpolate: task {source.request.task} edits a picture; only generated ones have a way")
    single = tuple(replace(s, shape=_with_batch(s, 1)) for s in source.inputs)
    ends = [draw_inputs(single, source.classes, 1, seed)[0] for seed in (first, second)]
    if "label" in ends[0]:
        chosen = first % (source.classes or 1) if label is None else label
        ends = [{**end, "label": np.full_like(end["label"], chosen)} for end in ends]
    # Whole runs of the graph; what is too much is cut off again.
    padded = -(-count // source.batch) * source.batch
    weights = [min(i, count - 1) / (count - 1) for i in range(padded)]
    arrays = {
        spec.name: np.concatenate(
            [_between(spec.name, ends[0][spec.name], ends[1][spec.name], weight) for weight in weights],
            axis=1 if spec.name == "renoise" else 0,
        )
        for spec in source.inputs
    }
    runs = split_inputs(source.inputs, arrays)
    return run_all(source, runs, len(runs), progress)[:count]


def _between(name: str, first: Array, second: Array, weight: float) -> Array:
    if name == "label":
        return first
    if name == "renoise":
        pairs = zip(first, second, strict=True)
        return np.stack([_between("noise", a, b, weight) for a, b in pairs])
    mixed: Array = interpolate(torch.from_numpy(first), torch.from_numpy(second), weight).numpy()
    return mixed


def _with_batch(spec: TensorSpec, batch: int) -> tuple[int, ...]:
    if spec.name == "renoise":
        return (spec.shape[0], batch, *spec.shape[2:])
    return (batch, *spec.shape[1:])


def _check_label(source: PictureSource, label: int | None) -> None:
    if label is not None and not source.takes("label"):
        raise UsageError(f"--label {label}: this artefact takes no label")
    if label is not None and not 0 <= label < (source.classes or 0):
        raise UsageError(f"--label {label}: out of range, this model has labels 0 to {(source.classes or 0) - 1}")


def shown_to_people(source: PictureSource, given: Mapping[str, Array]) -> Array:
    """What an editing graph knows of a picture, (C, H, W): the kept pixels, the grey picture, the coarse blocks."""
    build = task_named(source.request.task).build
    assert build is not None
    tensors = {name: torch.from_numpy(np.asarray(array, dtype=np.float32))[None] for name, array in given.items()}
    shown: Array = build(source.request).shown(tensors["image"], tensors.get("mask"))[0].numpy()
    return shown


def given_runs(source: PictureSource, arrays: Mapping[str, Array]) -> list[dict[str, Array]]:
    """Given arrays as runs of the graph; see `parity.inputs.split_inputs`.

    Raises:
        CheckpointError: the arrays don't fit the graph, or hold a label that the model doesn't have.
    """
    runs = split_inputs(source.inputs, arrays)
    # As given: in the graph's int32 a label of 2^32 would be 0.
    if "label" in arrays and not set(arrays["label"].tolist()) <= set(range(source.classes or 0)):
        raise CheckpointError(f"input 'label' holds a class outside 0 to {(source.classes or 0) - 1}")
    return runs


def run_all(
    source: PictureSource,
    runs: Iterable[Mapping[str, Array]],
    total: int,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Array:
    """Every run's `image`, joined along the pictures."""
    pictures = []
    with source.open() as runner:
        for done, run in enumerate(runs):
            progress(done, total)
            pictures.append(runner(run)["image"])
    return np.concatenate(pictures)


def read_arrays(path: Path) -> dict[str, Array]:
    """Arrays of a `.npz` file, without unpickling anything.

    Raises:
        CheckpointError: the file is missing, is no `.npz`, is damaged or holds Python objects.
    """
    require_file(path, "an .npz archive")
    try:
        with np.load(path, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise CheckpointError(f"{path}: an .npz archive of named arrays is expected, not a single array")
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path}: not a readable .npz archive: {str(error).splitlines()[0]}") from error


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
    runs = given_runs(source, inputs)
    pictures = run_all(source, runs, len(runs))
    gate = gate_of(manifest.precision, manifest.precision_plan)
    return ArrayComparison(compare(expected, pictures), byte_gate(gate) if pictures.dtype == np.uint8 else gate)
