"""Inputs and outputs of a graph by name, shape, dtype, law and meaning; drawing them, joining and cutting batches.

Picture i depends on nothing but its seed: `torch.Generator().manual_seed(seed + i)` serves its inputs in the graph's
order, one `randn` for `noise` (C, H, W), then one for `renoise` (K-1, C, H, W), and so on; a `Choice` takes
i modulo its size. The same picture is drawn whatever the batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cmexport.errors import CheckpointError, UsageError
from cmexport.runner import Array
from cmexport.signature.laws import Law, Normal, Photo

PICTURE = ("N", "C", "H", "W")


@dataclass(frozen=True)
class Input:
    """A named input of a graph: shape, dtype, layout, meaning and the law it is drawn from.

    Attributes:
        name: as in the graph and in every file.
        shape: static, with the batch in it.
        dtype: a numpy name ("float32", "int64").
        law: what it is drawn from; None where nothing is known of it.
        layout: what each axis counts; "N" are the pictures. Without an "N" all pictures of a run share the input.
        meaning: a sentence for the manifest and for files that describe themselves.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    law: Law | None = None
    layout: tuple[str, ...] = PICTURE
    meaning: str = ""

    @property
    def batch_axis(self) -> int | None:
        """The axis that counts pictures."""
        return self.layout.index("N") if "N" in self.layout else None

    @property
    def drawn(self) -> Law:
        """The law the input is drawn from.

        Raises:
            UsageError: there is none.
        """
        if self.law is None:
            raise UsageError(f"input '{self.name}' can't be drawn at random; give it with --inputs FILE.npz")
        return self.law

    @property
    def count(self) -> int | None:
        """How many values it has; None where they can't be listed."""
        return None if self.law is None else self.law.count

    @property
    def values(self) -> tuple[float, ...] | None:
        """All values of a number for each picture, where they can be listed."""
        return None if self.law is None or self.batch_axis is None else self.law.values

    @property
    def picture_shape(self) -> tuple[int, ...]:
        """The shape of one picture's part."""
        return tuple(side for axis, side in enumerate(self.shape) if axis != self.batch_axis)

    @property
    def worded(self) -> bool:
        """Whether it stands for a prompt."""
        return self.law is not None and self.law.worded

    def with_batch(self, batch: int) -> Input:
        """Make the same input for another number of pictures."""
        return replace(self, shape=tuple(batch if a == self.batch_axis else s for a, s in enumerate(self.shape)))

    def stack(self, parts: Sequence[Array]) -> Array:
        """Parts of single pictures as this input, in its dtype."""
        axis = self.batch_axis
        return (parts[0] if axis is None else np.stack(parts, axis)).astype(self.dtype)

    def join(self, parts: Sequence[Array]) -> Array:
        """Join batches into one."""
        axis = self.batch_axis
        return parts[0] if axis is None else np.concatenate(parts, axis)

    def take(self, array: Array, pictures: Sequence[int]) -> Array:
        """Chosen pictures out of a batch, in this input's dtype."""
        axis = self.batch_axis
        return np.ascontiguousarray(array if axis is None else np.take(array, pictures, axis), dtype=self.dtype)

    def between(self, first: Array, second: Array, weight: float) -> Array:
        """Interpolate between the parts of two pictures, each (1, ...) along the pictures; steps go separately."""
        if not self.batch_axis:
            return self.drawn.between(first, second, weight)
        return np.stack([self.drawn.between(a, b, weight) for a, b in zip(first, second, strict=True)])

    def check(self, given: Array) -> None:
        """Refuse an array that doesn't fit, however many pictures it holds.

        Raises:
            CheckpointError: a shape, dtype or value doesn't fit.
        """
        if given.ndim != len(self.shape) or self.with_batch(0).shape != _without(given.shape, self.batch_axis):
            raise CheckpointError(f"input '{self.name}' has shape {given.shape}; the graph takes {self.shape}")
        if given.dtype.kind not in ("f" if self.dtype.startswith("float") else "iu"):
            raise CheckpointError(f"input '{self.name}' is {given.dtype}; the graph takes {self.dtype}")
        if not np.isfinite(given).all():
            raise CheckpointError(f"input '{self.name}' holds NaN or Inf")
        # As given: in the graph's int32 a label of 2^32 would be 0.
        limits = None if self.law is None else self.law.limits
        if limits is not None and given.size and not (limits[0] <= given.min() and given.max() <= limits[1]):
            raise CheckpointError(f"input '{self.name}' holds a number outside {limits[0]:g} to {limits[1]:g}")


def _without(shape: tuple[int, ...], axis: int | None) -> tuple[int, ...]:
    return tuple(0 if i == axis else side for i, side in enumerate(shape))


@dataclass(frozen=True)
class Output:
    """The finished pictures: float32 (N, C, H, W) or bytes, "uint8" (N, H, W, C); see `Input`.

    `range` is between which numbers they lie; None where nothing keeps them there. `columns`: of values whose columns,
    along the last axis, have ranges of their own, each of these; `range` is then around them all.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    layout: tuple[str, ...] = PICTURE
    range: tuple[float, float] | None = None
    meaning: str = ""
    columns: tuple[tuple[float, float], ...] = ()

    def as_pictures(self, values: Array) -> Array:
        """Return what is shown and compared, (N, C, H, W) in [-1, 1] or bytes: heights from black to white, say."""
        if self._shown_as_they_are:
            return values
        low, high = self._ends
        shown: Array = ((np.asarray(values, np.float64) - low) * (2.0 / (high - low)) - 1.0).astype(values.dtype)
        return shown

    def from_pictures(self, pictures: Array) -> Array:
        """Return the values that `as_pictures` shows so."""
        if self._shown_as_they_are:
            return pictures
        low, high = self._ends
        wide = low + (np.asarray(pictures, np.float64) + 1.0) * ((high - low) / 2.0)
        values: Array = wide.astype(pictures.dtype)
        return values

    @property
    def _shown_as_they_are(self) -> bool:
        return self.is_bytes or self.range is None or (self.range == (-1.0, 1.0) and not self.columns)

    @property
    def _ends(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """The least and the largest value, for each column where they have ranges of their own."""
        ends = np.array(self.columns or self.range, dtype=np.float64)
        return ends[..., 0], ends[..., 1]

    @property
    def is_bytes(self) -> bool:
        """Whether they are ready to show."""
        return self.dtype == "uint8"


@dataclass(frozen=True)
class Signature:
    """The whole border of a graph: inputs in the graph's order, and its one output."""

    inputs: tuple[Input, ...]
    output: Output

    @classmethod
    def chained(cls, stages: Sequence[Signature]) -> Signature:
        """Join the borders of graphs that run in turn: an input that an earlier one gives is not asked for.

        Noise comes first, as in one graph for all, so that a seed draws the same.
        """
        inputs: dict[str, Input] = {}
        for index, stage in enumerate(stages):
            made = {earlier.output.name for earlier in stages[:index]}
            inputs |= {i.name: i for i in stage.inputs if i.name not in made | set(inputs)}
        ordered = sorted(inputs.values(), key=lambda i: not isinstance(i.law, Normal))
        return cls(tuple(ordered), stages[-1].output)

    @property
    def batch(self) -> int:
        """N, the pictures of one run.

        Raises:
            CheckpointError: no input counts pictures, so this is no graph of ours.
        """
        for i in self.inputs:
            if i.law is not None and i.batch_axis is not None:
                return i.shape[i.batch_axis]
        raise CheckpointError(f"the graph has no input 'noise', only {', '.join(self.names) or 'none'}")

    @property
    def names(self) -> tuple[str, ...]:
        """The inputs' names, in order."""
        return tuple(i.name for i in self.inputs)

    @property
    def sample(self) -> Input:
        """The input in the shape of the samples: noise, else the noisy picture, else what a part of a sampler takes."""
        found = (i for law in (Normal, Photo) for i in self.inputs if isinstance(i.law, law))
        return next(found, self.inputs[0])

    @property
    def later_noise(self) -> Input | None:
        """The noise of steps after the first, if there are any."""
        return next((i for i in self.inputs if isinstance(i.law, Normal) and i.batch_axis), None)

    @property
    def choices(self) -> tuple[Input, ...]:
        """The inputs that pick one of finitely many for each picture."""
        return tuple(i for i in self.inputs if i.count is not None and i.batch_axis is not None)

    @property
    def listed(self) -> tuple[Input, ...]:
        """The inputs of finitely many values, `choices` and rounded numbers: what depends on one may be tabulated."""
        return tuple(i for i in self.inputs if i.values is not None)

    @property
    def choice(self) -> Input | None:
        """The input that picks a class, if there is one."""
        return next(iter(self.choices), None)

    @property
    def given(self) -> tuple[Input, ...]:
        """What only the user has: the picture to edit, its mask."""
        return tuple(i for i in self.inputs if i.law is not None and i.law.stand_in)

    def draw(self, first: int = 0, seed: int = 0) -> dict[str, Array]:
        """Draw the inputs of one run: pictures `first` and on, each from its own seed, in the graph's dtypes.

        Raises:
            UsageError: an input has no law.
        """
        each = [self._picture(index, seed) for index in range(first, first + self.batch)]
        return {i.name: i.stack([picture[i.name] for picture in each]) for i in self.inputs}

    def _picture(self, index: int, seed: int) -> dict[str, Array]:
        generator = torch.Generator().manual_seed(seed + index)
        return {i.name: i.drawn.draw(i.picture_shape, generator, index) for i in self.inputs}

    def examples(self, run: int = 0) -> dict[str, Tensor]:
        """`draw` as tensors, a run at a time: run r has pictures r N to r N + N - 1, and their numbers for seeds."""
        return {name: torch.from_numpy(array) for name, array in self.draw(run * self.batch).items()}

    def spread(self, given: Mapping[str, Array]) -> dict[str, Array]:
        """One picture's part of some inputs, the same for every picture of a run."""
        return {i.name: i.stack([given[i.name]] * self.batch) for i in self.inputs if i.name in given}

    def between(self, first: Mapping[str, Array], second: Mapping[str, Array], weight: float) -> dict[str, Array]:
        """Return the inputs of a picture on the way from one (weight 0) to another (1), each with a batch of 1."""
        return {i.name: i.between(first[i.name], second[i.name], weight) for i in self.inputs}

    def join(self, runs: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
        """Join the inputs of several runs into those of one."""
        return {i.name: i.join([run[i.name] for run in runs]) for i in self.inputs}

    def batches(self, arrays: Mapping[str, Array]) -> list[dict[str, Array]]:
        """Given arrays (a `.npz` file, say) as one dict per run, in the graph's dtypes.

        Args:
            arrays: one array per input, with any whole number of batches along the pictures.

        Raises:
            CheckpointError: a name is missing or unknown, or a shape, dtype or value doesn't fit.
        """
        batch = self.batch
        if set(self.names) != set(arrays):
            held = ", ".join(sorted(arrays)) or "nothing"
            raise CheckpointError(f"the inputs hold {held}; the graph takes {', '.join(self.names)}")
        for i in self.inputs:
            i.check(arrays[i.name])
        counts = {arrays[i.name].shape[i.batch_axis] for i in self.inputs if i.batch_axis is not None}
        pictures = counts.pop()
        if counts or pictures == 0 or pictures % batch:
            raise CheckpointError(
                f"the inputs must all hold the same number of pictures, a multiple of the batch {batch}"
            )
        runs = [range(first, first + batch) for first in range(0, pictures, batch)]
        return [{i.name: i.take(arrays[i.name], run) for i in self.inputs} for run in runs]

    def with_batch(self, batch: int) -> Signature:
        """Make the same input for another number of pictures."""
        output = replace(self.output, shape=(batch, *self.output.shape[1:]))
        return Signature(tuple(i.with_batch(batch) for i in self.inputs), output)

    def drawn_as(self, other: Signature) -> Signature:
        """Make the same border, whose inputs are drawn as those of `other` with the same names where that has a law.

        A manifest holds no embeddings, so that its border alone can't draw them.
        """
        laws = {i.name: i.law for i in other.inputs if i.law is not None}
        return replace(self, inputs=tuple(replace(i, law=laws.get(i.name, i.law)) for i in self.inputs))

    def without_int64(self) -> Signature:
        """Return the border of runtimes that know no 64-bit numbers, as Apple's: their labels are int32."""
        narrow = (replace(i, dtype="int32") if i.dtype == "int64" else i for i in self.inputs)
        return replace(self, inputs=tuple(narrow))

    def takes_as(self, other: Signature) -> bool:
        """Whether two graphs take the same arrays; how wide whole numbers are is a target's own affair."""
        mine, others = self.without_int64(), other.without_int64()
        return {(i.name, i.shape, i.dtype) for i in mine.inputs} == {(i.name, i.shape, i.dtype) for i in others.inputs}
