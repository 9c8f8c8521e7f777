"""Draw pictures from a checkpoint or a written artefact: seed by seed, or from given arrays."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from cmexport.artifact import Manifest, read_manifest
from cmexport.errors import CheckpointError, UsageError
from cmexport.graph.capture import graph_inputs
from cmexport.model import ConsistencyModel, SampleRequest, TensorSpec
from cmexport.parity.gates import byte_gate, gate_for
from cmexport.parity.inputs import draw_inputs, split_inputs
from cmexport.parity.metrics import PictureDifference, compare
from cmexport.runner import Array, Runner
from cmexport.sampling.reference import TorchRunner
from cmexport.sampling.schedules import plan_sampling
from cmexport.verification import artifact_rungs


@dataclass(frozen=True)
class PictureSource:
    """Something that draws: the inputs it takes, its number of classes, and how to open it."""

    inputs: tuple[TensorSpec, ...]
    classes: int | None
    open: Callable[[], Runner]

    @property
    def batch(self) -> int:
        """Pictures per run."""
        return next(s.shape[0] for s in self.inputs if s.name == "noise")


def source_from_model(model: ConsistencyModel, request: SampleRequest) -> PictureSource:
    """The PyTorch reference of a checkpoint."""
    plan = plan_sampling(model, request.sigmas)
    inputs = graph_inputs(model, plan, request)
    return PictureSource(inputs, model.conditioning.classes, partial(TorchRunner, model, plan, request))


def source_from_artifact(folder: Path) -> PictureSource:
    """A written artefact in the runtime it was made for.

    Raises:
        CheckpointError: the artefact is damaged.
    """
    return _source(folder, read_manifest(folder))


def _source(folder: Path, manifest: Manifest) -> PictureSource:
    shipped = artifact_rungs(folder, manifest)[-1]
    return PictureSource(tuple(t.spec for t in manifest.inputs), manifest.classes, shipped.open)


def draw_pictures(
    source: PictureSource,
    count: int,
    seed: int = 0,
    label: int | None = None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Array:
    """`count` pictures; picture i has seed `seed` + i and, where the source takes labels, `label` or i mod classes.

    Raises:
        UsageError: a label the source does not have, or a count below 1.
    """
    takes_labels = any(s.name == "label" for s in source.inputs)
    if label is not None and not takes_labels:
        raise UsageError(f"--label {label}: this artefact takes no label")
    if label is not None and not 0 <= label < (source.classes or 0):
        raise UsageError(f"--label {label}: out of range, this model has labels 0 to {(source.classes or 0) - 1}")
    inputs = draw_inputs(source.inputs, source.classes, count, seed)
    runs: Iterable[dict[str, Array]] = inputs
    if label is not None:
        runs = ({**run, "label": np.full_like(run["label"], label)} for run in inputs)
    return run_all(source, runs, len(inputs), progress)[:count]


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


def compare_arrays(folder: Path, inputs: Mapping[str, Array], expected: Array) -> ArrayComparison:
    """Run a written artefact on given inputs and compare with given pictures.

    Raises:
        CheckpointError: the artefact is damaged, or the arrays don't fit it.
    """
    manifest = read_manifest(folder)
    source = _source(folder, manifest)
    runs = split_inputs(source.inputs, inputs)
    pictures = run_all(source, runs, len(runs))
    gate = gate_for(manifest.precision)
    return ArrayComparison(compare(expected, pictures), byte_gate(gate) if pictures.dtype == np.uint8 else gate)
