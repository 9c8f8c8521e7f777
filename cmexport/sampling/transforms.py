"""`--output-transform`: what finished pictures mean, computed in the graph: heights in metres, not grey levels."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
from torch import Tensor, nn

from cmexport.errors import UsageError
from cmexport.model import ConsistencyModel, SampleRequest
from cmexport.sampling.policy import QUANTITY, Unnormalization
from cmexport.signature import Output

_SCALE, _HIGHEST = 0.1, 22.16864013671875
_WIDTH = math.asinh(_HIGHEST / _SCALE)


@dataclass(frozen=True)
class OutputTransform:
    """A function of finished pictures y in [-1, 1], growing everywhere.

    Attributes:
        apply: the function, element by element.
        formula: it in words, for the manifest.
        quantity: what comes out.
        unit: of it.
        low, high: its values at -1 and 1.
        channels: of the pictures that it is for.
        slope: the largest of its derivative over that of the straight line from -1 to 1: by so much a difference grows.
    """

    apply: Callable[[Tensor], Tensor]
    formula: str
    quantity: str
    unit: str
    low: float
    high: float
    channels: int
    slope: float

    def module(self) -> nn.Module:
        """Return what computes it."""
        return _Applied(self.apply)

    def output(self, shown: Output) -> Output:
        """Return the border's output after the transform."""
        said = f"{self.quantity} in {self.unit}, (N, C, H, W): {self.formula} of pictures y in [-1, 1]"
        return replace(shown, range=(self.low, self.high), meaning=said)


class _Applied(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, y: Tensor) -> Tensor:
        """Apply it."""
        return self.function(y)


TRANSFORMS: Mapping[str, OutputTransform] = MappingProxyType(
    {
        # adaptive-terrain-diffusion 0.4.2, terrain_diffusion/generator.py: `_from_model_space` without its floor.
        "heights": OutputTransform(
            apply=lambda y: _SCALE * torch.sinh((y + 1.0) * (0.5 * _WIDTH)),
            formula=f"{_SCALE:g} sinh((y + 1) / 2 asinh({_HIGHEST / _SCALE:.7g}))",
            quantity="heights",
            unit="m",
            low=0.0,
            high=_HIGHEST,
            channels=1,
            slope=_WIDTH * math.sqrt(1.0 + (_SCALE / _HIGHEST) ** 2),
        ),
    }
)


def transform_of(model: ConsistencyModel, request: SampleRequest) -> OutputTransform | Unnormalization | None:
    """Find the transform of a request, if it has one: the one it names, or what makes actions of a policy's samples.

    Raises:
        UsageError: there is none of that name.
    """
    name = request.output_transform
    if model.policy is not None:
        if name not in (None, QUANTITY):
            raise UsageError(f"--output-transform {name}: this model gives actions")
        return Unnormalization(model.policy)
    if name is None:
        return None
    if name not in TRANSFORMS:
        raise UsageError(f"--output-transform {name}: known are {', '.join(TRANSFORMS)}")
    return TRANSFORMS[name]


def transform_name(model: ConsistencyModel, request: SampleRequest) -> str | None:
    """Return what a manifest calls the transform of a request; None where there is none."""
    return QUANTITY if model.policy is not None else request.output_transform


def check_transform(model: ConsistencyModel, request: SampleRequest, *, looped: bool) -> None:
    """Refuse a transform where pictures are not what it is a function of.

    Raises:
        UsageError: bytes, editing, a sampler that loops, pictures beyond [-1, 1], or of other channels.
    """
    transform, name = transform_of(model, request), request.output_transform
    if isinstance(transform, Unnormalization):
        if request.output == "uint8" or request.task != "generate":
            asked = "--output uint8" if request.output == "uint8" else f"--task {request.task}"
            raise UsageError(f"{asked}: this model gives actions, no pictures")
        return
    if transform is None:
        return
    channels = model.channels if model.codec is None else model.codec.channels
    if channels != transform.channels:
        raise UsageError(f"--output-transform {name}: is for pictures of {transform.channels} channel, not {channels}")
    if request.output == "uint8":
        raise UsageError(f"--output-transform {name} and --output uint8 contradict each other: bytes are no {name}")
    if request.task != "generate" or looped:
        raise UsageError(f"--output-transform {name}: for --task generate with the sampler consistency")
    if not model.clamp and model.codec is None:
        raise UsageError(f"--output-transform {name}: this model's pictures are not clamped to [-1, 1]")
