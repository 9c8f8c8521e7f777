"""Zero-shot editing: what each task knows of a picture and keeps (Song et al. 2023, arXiv:2303.01469, algorithm 4).

The paper picks an orthogonal map A and a set of known coordinates of A y: the kept pixels, the grey value, the mean of
each block. Written out, A^T (known A y) = P y with the projection P = A^T diag(known) A, and replacing the known
coordinates of x by those of y is x + P (y - x). Only P matters, so A never enters the graph:

* inpaint: P is the mask,
* colorize: P = a a^T on each pixel's colour, a = (0.2989, 0.5870, 0.1140) of length 1,
* superres: P is the mean over each p x p block,
* stroke (SDEdit, Meng et al. 2022, arXiv:2108.01073): starts from the picture plus noise, keeps nothing,
* denoise: one evaluation of a picture that is noisy already.

The first sample is P y + sigma_0 z, as the algorithm has it; the notebook of openai/consistency_models_cifar10 leaves
the noise out while evaluating at sigma 80. As in OpenAI's code the known part is put back after the clamp, also after
the last evaluation: where P is not the mask, a picture may pass -1 and 1 slightly.

Latents of a few-step model are edited as diffusers' pipelines do it: "stroke" is image to image, which starts at
latents + sigma_0 z. "inpaint" keeps the latents under the mask's every 8th pixel, each time with the first noise at the
next level; from the last timestep it starts at noise alone (StableDiffusionInpaintPipeline of a 4-channel UNet).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cmexport.errors import UsageError
from cmexport.model import ConsistencyModel, SampleRequest
from cmexport.signature import Input, known

LUMA = (0.2989, 0.5870, 0.1140)
"""Weights of red, green and blue in a grey value (ITU-R BT.601), as OpenAI's colorization has them."""


class Editing(nn.Module):
    """What a task knows of the picture y, `image` (N, C, H, W), and does with it."""

    def known(self, image: Tensor, mask: Tensor | None) -> Tensor:
        """P y, where sampling starts."""
        raise NotImplementedError

    def keep(self, x: Tensor, image: Tensor, mask: Tensor | None) -> Tensor:
        """Replace the known part of the sample x by the picture's: x + P (y - x)."""
        return x + self.known(image - x, mask)

    def shown(self, image: Tensor, mask: Tensor | None) -> Tensor:
        """P y as people would draw it."""
        return self.known(image, mask)


class Inpaint(Editing):
    """Keeps the pixels where `mask` (N, 1, H, W) is 1."""

    def known(self, image: Tensor, mask: Tensor | None) -> Tensor:
        """Return the picture with the unknown pixels at 0."""
        assert mask is not None
        return mask * image

    def keep(self, x: Tensor, image: Tensor, mask: Tensor | None) -> Tensor:
        """Choose between pixels, so that kept ones are equal to the last bit; x + mask (y - x) would round."""
        assert mask is not None
        return mask * image + (1.0 - mask) * x


class Colorize(Editing):
    """Keeps each pixel's grey value."""

    projection: Tensor

    def __init__(self) -> None:
        super().__init__()
        direction = torch.tensor(LUMA, dtype=torch.float64)
        direction = direction / direction.norm()
        # A 1x1 convolution with a constant matrix: every backend has it, and it is exact in the picture's own dtype.
        self.register_buffer("projection", torch.outer(direction, direction)[:, :, None, None], persistent=False)

    def known(self, image: Tensor, mask: Tensor | None) -> Tensor:  # noqa: ARG002
        """Each pixel's colour projected on the direction of grey."""
        return F.conv2d(image, self.projection.to(image.dtype))

    def shown(self, image: Tensor, mask: Tensor | None) -> Tensor:  # noqa: ARG002
        """Give the grey picture, three equal channels."""
        weights = torch.tensor(LUMA, dtype=image.dtype)[:, None, None] / sum(LUMA)
        return (weights * image).sum(dim=1, keepdim=True).expand_as(image)


class Superres(Editing):
    """Keeps the mean of each block of `patch` x `patch` pixels."""

    def __init__(self, patch: int) -> None:
        super().__init__()
        self.patch = patch

    def known(self, image: Tensor, mask: Tensor | None) -> Tensor:  # noqa: ARG002
        """Return the picture at low resolution, enlarged again."""
        return F.interpolate(F.avg_pool2d(image, self.patch), scale_factor=float(self.patch), mode="nearest")


class Stroke(Editing):
    """Starts from the whole picture and keeps nothing of it."""

    def known(self, image: Tensor, mask: Tensor | None) -> Tensor:  # noqa: ARG002
        """Give the picture itself: all of it is the start."""
        return image

    def keep(self, x: Tensor, image: Tensor, mask: Tensor | None) -> Tensor:  # noqa: ARG002
        """Give the sample as it is."""
        return x


@dataclass(frozen=True)
class Task:
    """What `--task` names: drawing from noise, or a way to edit a picture.

    Attributes:
        summary: a sentence for documentation and help.
        build: the module for a request; None for tasks that know nothing of a picture.
        masked: whether the graph takes a `mask` beside the `image`.
        adds_noise: whether the graph has a `noise` input; False where the picture is noisy already.
        put_back: whether what is known of the picture, put back after the clamp, may leave [-1, 1]: grey values and
            block means may, their sum with the rest isn't clamped; a choice between pixels can't.
        latents: whether it has a meaning where latents are sampled.
    """

    summary: str
    build: Callable[[SampleRequest], Editing] | None
    masked: bool = False
    adds_noise: bool = True
    put_back: bool = False
    latents: bool = False

    def image_noise(self, sigma: float) -> float:
        """Return the standard deviation of the noise already on the picture, where `sigma` is evaluated first."""
        return 0.0 if self.adds_noise else sigma

    def given(self, picture: tuple[int, ...], sigma: float) -> list[Input]:
        """Return what the graph takes besides noise and label, for pictures (N, C, H, W)."""
        image = [] if self.build is None else [known.image(picture, self.image_noise(sigma))]
        return [*image, *([known.mask(picture)] if self.masked else [])]


def _superres(request: SampleRequest) -> Editing:
    assert request.patch is not None
    return Superres(request.patch)


TASKS: Mapping[str, Task] = MappingProxyType(
    {
        "generate": Task("a picture from noise", None, latents=True),
        "inpaint": Task("paint what the mask leaves open", lambda _: Inpaint(), masked=True, latents=True),
        "colorize": Task("colour a grey picture", lambda _: Colorize(), put_back=True),
        "superres": Task("detail for blocks whose means are known", _superres, put_back=True),
        "stroke": Task("a picture after a sketch in colours", lambda _: Stroke(), latents=True),
        "denoise": Task("a clean picture from a noisy one", lambda _: Stroke(), adds_noise=False),
    }
)


def task_named(name: str) -> Task:
    """Find the task that `--task` names.

    Raises:
        UsageError: the name is unknown.
    """
    if name not in TASKS:
        raise UsageError(f"--task {name}: known are {', '.join(TASKS)}")
    return TASKS[name]


def check_editing(model: ConsistencyModel, request: SampleRequest, steps: int) -> Task:
    """Check that a request's task fits the model, and return the task.

    Raises:
        UsageError: an unknown task, a patch that doesn't divide the picture or has no task to serve, colours of a model
            that has none, or several evaluations of a task that has one.
    """
    task, space = task_named(request.task), model.space
    common = math.gcd(space.height, space.width)
    size = str(common) if space.height == space.width else f"{space.height} and {space.width}"
    if (request.patch is not None) != (request.task == "superres"):
        if request.patch is None:
            raise UsageError(f"--task superres: how large are the blocks? Give --patch N, a divisor of {size}")
        raise UsageError(f"--patch {request.patch}: only --task superres has patches, not {request.task}")
    if request.patch is not None and not (1 < request.patch <= common and common % request.patch == 0):
        raise UsageError(f"--patch {request.patch}: must divide the picture's {size} pixels and be at least 2")
    if task.build is not None and model.codec is not None:
        if not task.latents or model.schedule is None:
            able = ", ".join(n for n, t in TASKS.items() if t.latents) if model.schedule is not None else "generate"
            raise UsageError(f"--task {request.task}: this model samples latents; it has {able}")
        if model.codec.encoder is None:
            raise UsageError(f"--task {request.task}: this model's autoencoder has no encoder for the picture")
    if request.task == "colorize" and model.channels != 3:
        raise UsageError(f"--task colorize: this model has {model.channels} channels, not red, green and blue")
    if request.task == "denoise" and steps != 1:
        raise UsageError(f"--task denoise: one evaluation at one level, not {steps}; --task stroke takes several")
    return task
