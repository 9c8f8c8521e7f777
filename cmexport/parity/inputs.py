"""Inputs that anybody can draw again: picture i depends on nothing but its seed.

Picture i comes from `torch.Generator().manual_seed(seed + i)`: one `randn` for `noise` (C, H, W), then one for
`renoise` (K-1, C, H, W) where the graph has it; its label is i modulo the number of classes. Editing graphs also take a
made-up `image` and a `mask` with a hole a quarter of the picture large (see `sampling.made_up`), drawn from
the same generator afterwards. The same picture is drawn whatever the batch size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import overload

import numpy as np
import torch

from cmexport.errors import CheckpointError, UsageError
from cmexport.model import TensorSpec
from cmexport.runner import Array
from cmexport.sampling.made_up import hole, made_up_picture

_DRAWN = ("noise", "renoise", "label", "image", "mask")
PICTURE_AXIS: Mapping[str, int] = MappingProxyType({"renoise": 1})
"""The axis that counts pictures: renoise is (K-1, N, C, H, W), everything else starts with N."""


@dataclass(frozen=True)
class VerificationInputs(Sequence[dict[str, Array]]):
    """One dict of arrays per run of a graph with static batch `batch`, drawn when asked for.

    Attributes:
        specs: the graph's inputs.
        classes: number of classes; needed when the graph has a `label` input.
        pictures: pictures over all runs, a multiple of `batch`.
        seed: seed of picture 0.
        image_noise: standard deviation of the noise on `image`, for graphs that remove it.
    """

    specs: tuple[TensorSpec, ...]
    classes: int | None
    pictures: int
    seed: int
    image_noise: float = 0.0

    @property
    def batch(self) -> int:
        """N of the graph."""
        return batch_of(self.specs)

    def __len__(self) -> int:
        """Number of runs."""
        return self.pictures // self.batch

    @overload
    def __getitem__(self, index: int) -> dict[str, Array]: ...

    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Array]]: ...

    def __getitem__(self, index: int | slice) -> dict[str, Array] | list[dict[str, Array]]:
        """Inputs of one run: consecutive pictures, in the graph's dtypes."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        first = (index % len(self)) * self.batch
        each = [self._picture(i) for i in range(first, first + self.batch)]
        return {
            spec.name: np.stack([picture[spec.name] for picture in each], axis=PICTURE_AXIS.get(spec.name, 0)).astype(
                spec.dtype
            )
            for spec in self.specs
        }

    def __iter__(self) -> Iterator[dict[str, Array]]:
        """Runs in order."""
        return (self[i] for i in range(len(self)))

    def _picture(self, index: int) -> dict[str, Array]:
        generator = torch.Generator().manual_seed(self.seed + index)
        shapes = {spec.name: spec.shape for spec in self.specs}
        drawn: dict[str, Array] = {}
        if "noise" in shapes:
            drawn["noise"] = torch.randn(shapes["noise"][1:], generator=generator).numpy()
        if "renoise" in shapes:
            steps, _, *picture = shapes["renoise"]
            drawn["renoise"] = torch.randn((steps, *picture), generator=generator).numpy()
        if "label" in shapes:
            assert self.classes is not None
            drawn["label"] = np.asarray(index % self.classes)
        if "image" in shapes:
            drawn["image"] = made_up_picture(shapes["image"][1:], generator, self.image_noise)
        if "mask" in shapes:
            drawn["mask"] = hole(shapes["mask"][1:], generator)
        return drawn


def batch_of(specs: Sequence[TensorSpec]) -> int:
    """N of a graph: the first axis of its `noise` input, or of the noisy `image` that stands for it.

    Raises:
        CheckpointError: there is neither, so this is no graph of ours.
    """
    for name in ("noise", "image"):
        for spec in specs:
            if spec.name == name:
                return spec.shape[0]
    raise CheckpointError(f"the graph has no input 'noise', only {', '.join(s.name for s in specs) or 'none'}")


def draw_inputs(
    specs: Sequence[TensorSpec], classes: int | None, pictures: int, seed: int = 0, *, image_noise: float = 0.0
) -> VerificationInputs:
    """Inputs for at least `pictures` pictures, rounded up to whole runs of the graph.

    Args:
        specs: the graph's inputs; `noise` gives the batch. A graph with a baked label has no `label` spec.
        classes: number of classes for `label`.
        pictures: how many pictures, at least 1.
        seed: seed of picture 0; picture i uses seed + i.
        image_noise: standard deviation of the noise on `image`, for graphs that remove it.

    Raises:
        UsageError: no pictures asked for, or an input that can't be drawn.
        CheckpointError: the graph has no `noise` input, or a `label` input without classes.
    """
    batch = batch_of(specs)
    names = {spec.name for spec in specs}
    unknown = [n for n in (s.name for s in specs) if n not in _DRAWN or (n == "mask" and "image" not in names)]
    if unknown:
        raise UsageError(f"input '{unknown[0]}' can't be drawn at random; give it with --inputs FILE.npz")
    if pictures < 1:
        raise UsageError(f"{pictures} pictures: at least 1 is needed")
    if any(spec.name == "label" for spec in specs) and not classes:
        raise CheckpointError("the graph has an input 'label', but its number of classes is unknown")
    return VerificationInputs(tuple(specs), classes, -(-pictures // batch) * batch, seed, image_noise)


def split_inputs(specs: Sequence[TensorSpec], arrays: Mapping[str, Array]) -> list[dict[str, Array]]:
    """Given arrays (a `.npz` file, say) as one dict per run of the graph, in the graph's dtypes.

    Args:
        specs: the graph's inputs.
        arrays: one array per input, with any whole number of batches along the picture axis.

    Raises:
        CheckpointError: a name is missing or unknown, or a shape, dtype or value doesn't fit.
    """
    batch = batch_of(specs)
    names = [spec.name for spec in specs]
    if set(names) != set(arrays):
        raise CheckpointError(
            f"the inputs hold {', '.join(sorted(arrays)) or 'nothing'}; the graph takes {', '.join(names)}"
        )
    counts = set()
    for spec in specs:
        given, axis = arrays[spec.name], PICTURE_AXIS.get(spec.name, 0)
        wanted = tuple("any" if i == axis else size for i, size in enumerate(spec.shape))
        found = tuple("any" if i == axis else size for i, size in enumerate(given.shape))
        if wanted != found:
            raise CheckpointError(f"input '{spec.name}' has shape {given.shape}; the graph takes {spec.shape}")
        if given.dtype.kind not in ("f" if spec.dtype.startswith("float") else "iu"):
            raise CheckpointError(f"input '{spec.name}' is {given.dtype}; the graph takes {spec.dtype}")
        if not np.isfinite(given).all():
            raise CheckpointError(f"input '{spec.name}' holds NaN or Inf")
        counts.add(given.shape[axis])
    pictures = counts.pop()
    if counts or pictures == 0 or pictures % batch:
        raise CheckpointError(f"the inputs must all hold the same number of pictures, a multiple of the batch {batch}")
    return [
        {
            spec.name: np.ascontiguousarray(
                np.take(arrays[spec.name], range(first, first + batch), axis=PICTURE_AXIS.get(spec.name, 0)),
                dtype=spec.dtype,
            )
            for spec in specs
        }
        for first in range(0, pictures, batch)
    ]
