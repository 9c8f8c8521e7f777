"""The inputs and outputs that artefacts have, each made in one place: its name is a contract."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cmexport.signature.border import PICTURE, Input, Output
from cmexport.signature.laws import Choice, Embedding, Hole, Law, Normal, Photo, Range

BYTES = ("N", "H", "W", "C")

TOKENS, EMBEDDINGS, PROMPT, BAKED = FORMS = ("tokens", "embeddings", "prompt", "baked")
"""Forms of a prompt: three inputs by name, and none; the first two are what `--condition` takes."""
POOLED = "pooled"
GUIDANCE = "guidance"
DIFFICULTY = "difficulty"
GLOBAL_COND = "global_cond"


def noise(picture: tuple[int, ...]) -> Input:
    """Return the first step's noise, (N, C, H, W)."""
    said = "standard normal noise, unit variance, (N, C, H, W); the graph scales it"
    return Input("noise", picture, law=Normal(), meaning=said)


def renoise(steps: int, picture: tuple[int, ...]) -> Input:
    """Return the noise of `steps` later steps, (K-1, N, C, H, W)."""
    said = "standard normal noise for the later steps, unit variance, (K-1, N, C, H, W)"
    return Input("renoise", (steps, *picture), law=Normal(), layout=("K-1", *PICTURE), meaning=said)


def label(batch: int, classes: int | None) -> Input:
    """Return the class of each picture, (N,) int64; None where an old file doesn't say how many there are."""
    numbers = "0 to classes - 1" if classes is None else f"0 to {classes - 1}"
    said = f"class of each picture, {numbers}, (N,); not checked by the file: others give a wrong picture or an error"
    return Input("label", (batch,), "int64", Choice(classes) if classes else None, ("N",), said)


def tokens(batch: int, length: int, law: Law) -> Input:
    """Return a prompt in the tokenizer's numbers, (N, length)."""
    said = f"prompt as tokens, begin, words, end and padding, (N, {length}); tokenizer/ makes them"
    return Input(TOKENS, (batch, length), "int64", law, ("N", "T"), said)


def prompt(batch: int, prompts: int) -> Input:
    """Return the number of one of a closed list of prompts for each picture, (N,)."""
    said = f"which of the artefact's prompts each picture shows, 0 to {prompts - 1}, (N,)"
    return Input(PROMPT, (batch,), "int64", Choice(prompts, worded=True), ("N",), said)


def embeddings(batch: int, length: int, width: int, law: Law | None, *, joined: bool = False) -> Input:
    """Return what a text encoder makes of a prompt, (N, length, width); `joined`: two of them, one before the other."""
    last = "the text encoder's last states, normed"
    states = "both text encoders' states before their last layers, side by side" if joined else last
    said = f"{states}, (N, {length}, {width})"
    return Input(EMBEDDINGS, (batch, length, width), law=law, layout=("N", "T", "D"), meaning=said)


def pooled(batch: int, width: int, law: Law | None) -> Input:
    """Return what the second text encoder makes of a prompt as a whole, (N, width)."""
    said = f"the second text encoder's projected last state at the prompt's end, (N, {width})"
    return Input(POOLED, (batch, width), law=law, layout=("N", "D"), meaning=said)


def latent(shape: tuple[int, ...], law: Law | None) -> Input:
    """Return what a decoder makes a picture of, (N, c, h, w)."""
    return Input("latent", shape, law=law, meaning="latents of about unit variance, (N, c, h, w); decode shows them")


def guidance(batch: int) -> Input:
    """Return how strongly each picture follows its prompt, (N,)."""
    said = "guidance scale, as diffusers counts it: 1 follows the prompt least, (N,)"
    # Luo et al. 2023 (arXiv:2310.04378) distil scales from 3 to 15, others from 1 on.
    return Input(GUIDANCE, (batch,), law=Range(1.0, 15.0), layout=("N",), meaning=said)


def difficulty(batch: int, low: float, high: float, steps: int | None = None) -> Input:
    """Return a continuous condition in the units of the checkpoint's users, (N,); `steps` values of it, or any."""
    said = f"difficulty of each picture, {low:g} to {high:g}, (N,)"
    if steps is not None:
        said += f"; the nearest of {steps} values, {(high - low) / (steps - 1):.6g} apart, is taken"
    return Input(DIFFICULTY, (batch,), law=Range(float(low), float(high), steps), layout=("N",), meaning=said)


def global_cond(batch: int, width: int) -> Input:
    """Return the features of what a robot sees, (N, width), of all observed moments side by side."""
    said = f"features of the last observations, as the policy's own encoder makes them, side by side, (N, {width})"
    return Input(GLOBAL_COND, (batch, width), law=Embedding(), layout=("N", "D"), meaning=said)


def image(picture: tuple[int, ...], noise: float = 0.0) -> Input:
    """Return the picture to edit, (N, C, H, W), with noise of standard deviation `noise` on it already."""
    said = "picture to edit, (N, C, H, W) in [-1, 1]"
    if noise:
        said = f"picture in [-1, 1] plus normal noise of standard deviation {noise:.7g}, (N, C, H, W)"
    return Input("image", picture, law=Photo(noise), meaning=said)


def mask(picture: tuple[int, ...]) -> Input:
    """Return what of a picture (N, C, H, W) is kept, (N, 1, H, W)."""
    said = "1 where the picture is kept, 0 elsewhere, (N, 1, H, W)"
    return Input("mask", (picture[0], 1, *picture[2:]), law=Hole(), meaning=said)


def finished(
    picture: tuple[int, ...],
    inputs: Sequence[Input] = (),
    *,
    as_bytes: bool = False,
    clamp: bool = True,
    put_back: bool = False,
) -> Output:
    """Make the output: finished pictures.

    In ONNX and Core ML an input and an output can't share a name: with an `image` to edit they are called `edited`.

    Args:
        picture: (N, C, H, W).
        inputs: of the same graph.
        as_bytes: (N, H, W, C) uint8 instead.
        clamp: whether the last step clamps floats to [-1, 1].
        put_back: whether the known part, put back after the clamp, may leave them.
    """
    name = "edited" if any(isinstance(i.law, Photo) for i in inputs) else "image"
    batch, channels, height, width = picture
    if as_bytes:
        shape = (batch, height, width, channels)
        said = "finished pictures, bytes 0 to 255, (N, H, W, C)"
        return Output(name, shape, "uint8", BYTES, (0, 255), said)
    layout = "(N, C, H, W) in [-1, 1]"
    if not clamp:
        layout = "(N, C, H, W) around [-1, 1], not clamped: numbers may lie beyond, clip before showing"
    elif put_back:
        layout = "(N, C, H, W) in [-1, 1] but for the known part, put back after the clamp: clip before showing"
    limits = (-1.0, 1.0) if clamp and not put_back else None
    return Output(name, picture, "float32", PICTURE, limits, f"finished pictures, {layout}")


def recorded(
    name: str, shape: tuple[int, ...], dtype: str, meaning: str, *, classes: int | None, image_noise: float
) -> Input:
    """Read an input out of a manifest of version 1, which has laws in no other form than names.

    `classes` is the model's; `image_noise` the standard deviation of the noise on a picture to edit.
    """
    made = {
        "noise": noise(shape),
        "renoise": renoise(0, shape),
        "label": label(0, classes),
        "image": image(shape, image_noise),
        "mask": replace(mask((0, 0)), shape=shape),
    }
    return replace(
        made.get(name, Input(name, shape, layout=PICTURE[: len(shape)])), shape=shape, dtype=dtype, meaning=meaning
    )


def picture_axis(name: str) -> int:
    """Return the axis of the input `name` that counts pictures, for files that are nothing but names and shapes."""
    return 1 if name == "renoise" else 0
