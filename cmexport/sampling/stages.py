"""A sampler as parts that an app runs in turn: text to embeddings, noise to latents, latents to pictures.

For apps that keep a prompt and draw again, or must free the memory of one part before the next. Run in turn they give
what the whole gives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from cmexport.errors import UsageError
from cmexport.model import Codec, Condition
from cmexport.sampling.prompting import embedded, reworded
from cmexport.sampling.resolved import Sampler
from cmexport.sampling.samplers import to_bytes
from cmexport.signature import Output, Rows, Signature, known

PACKAGINGS = ("one", "staged")

# Latents to measure rewrites and calibrate a decoder with; each costs a picture.
_LATENTS = 8


@dataclass(frozen=True)
class Stage:
    """A part of a sampler.

    Attributes:
        name: of its graph.
        signature: its border; its output has the name of an input of the next.
        module: the PyTorch reference.
        sampler: whose network it evaluates; None for parts that run once whatever the steps.
    """

    name: str
    signature: Signature
    module: Callable[[], nn.Module]
    sampler: Sampler | None = None


class _Encode(nn.Module):
    def __init__(self, condition: Condition) -> None:
        super().__init__()
        assert condition.encode is not None
        self.encoder = condition.encode

    def forward(self, tokens: Tensor, **earlier: Tensor) -> Tensor:
        encoded: Tensor = self.encoder(tokens, *earlier.values())
        return encoded


class _Decode(nn.Module):
    def __init__(self, codec: Codec, as_bytes: bool) -> None:
        super().__init__()
        self.decoder, self._codec, self._as_bytes = codec.decoder, codec, as_bytes

    def forward(self, latent: Tensor) -> Tensor:
        image = self._codec.decode(latent)
        return to_bytes(image) if self._as_bytes else image


def stages_of(sampler: Sampler, packaging: str, mark: str = "") -> tuple[Stage, ...]:
    """Return the parts of a sampler: itself for "one"; for "staged" encode (where it takes tokens), paint and decode.

    Where the network takes a pooled prompt besides, `pool` comes after `encode` and goes on where that stopped.

    `mark` is added to the name of the part that depends on the number of steps, where there are several.

    Raises:
        UsageError: another packaging, or a sampler without parts.
    """
    if packaging not in PACKAGINGS:
        raise UsageError(f"--packaging {packaging}: known are {', '.join(PACKAGINGS)}")
    if packaging == "one":
        return (Stage(sampler.request.task, sampler.signature, sampler.module, sampler),)
    codec = sampler.model.codec
    if codec is None:
        raise UsageError("--packaging staged: this model paints pictures at once and has no parts to take apart")
    if sampler.request.task != "generate":
        raise UsageError(f"--packaging staged --task {sampler.request.task}: only generating is taken apart")
    worded = sampler.model.worded
    takes_tokens = worded is not None and worded.encode is not None and worded.input.count is None
    stages = []
    conditions = sampler.model.conditions
    if takes_tokens:
        wordings = sampler.model.wordings
        forms = embedded(wordings)
        stages += [_encode(sampler, wording, forms) for wording in wordings]
        conditions = reworded(conditions, forms)
    paint = _paint(sampler, conditions, f"paint{mark}")
    return (*stages, paint, _decode(sampler, codec, paint))


def _encode(sampler: Sampler, wording: Condition, forms: Sequence[Condition]) -> Stage:
    batch = sampler.request.batch
    border = {form.name: form.input.with_batch(batch) for form in forms}
    given = border[wording.name]
    taken = (wording.input.with_batch(batch), *(() if wording.after is None else (border[wording.after],)))
    output = Output(given.name, given.shape, layout=given.layout, meaning=given.meaning)
    name = "encode" if wording.after is None else "pool"
    return Stage(name, Signature(taken, output), lambda: _Encode(wording).eval())


def _paint(sampler: Sampler, conditions: tuple[Condition, ...], name: str) -> Stage:
    model = replace(sampler.model, codec=None, conditions=conditions)
    request = replace(sampler.request, output="float")
    inner = Sampler.of(model, request, sampler.method)
    latent = known.latent(inner.signature.sample.shape, None)
    output = Output(latent.name, latent.shape, meaning=latent.meaning)
    inner = replace(inner, signature=replace(inner.signature, output=output))
    return Stage(name, inner.signature, inner.module, inner)


def _decode(sampler: Sampler, codec: Codec, paint: Stage) -> Stage:
    module = paint.module()
    rows: list[Tensor] = []
    with torch.no_grad():
        while len(rows) < _LATENTS:
            rows += module(**paint.signature.examples(len(rows) // paint.signature.batch))
    latent = known.latent(paint.signature.output.shape, Rows([row.numpy() for row in rows[:_LATENTS]], worded=False))
    return Stage(
        "decode",
        Signature((latent,), sampler.signature.output),
        lambda: _Decode(codec, sampler.signature.output.is_bytes).eval(),
    )
