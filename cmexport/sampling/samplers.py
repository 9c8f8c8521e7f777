"""The sampler as one module: unit noise (a label, a picture to edit) in, finished pictures out.

This is the PyTorch reference and, at the same time, what `graph.capture` traces. Nothing random is drawn inside.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from cmexport.model import encoded
from cmexport.sampling.editing import task_named
from cmexport.sampling.resolved import Sampler
from cmexport.sampling.transforms import transform_of

TARGET = "c_noise_target"
"""What networks call the second time, the level to jump to."""


class Conditions(nn.Module):
    """What the network is called with by name: inputs of the graph, baked values, what encoders make of them."""

    def __init__(self, sampler: Sampler) -> None:
        super().__init__()
        self.conditions = sampler.model.conditions
        self.baked = sampler.baked
        # Registered, so that their weights are the graph's.
        self.encoders = nn.ModuleList([c.encode for c in self.conditions if c.encode is not None])

    def forward(self, given: Mapping[str, Tensor], pictures: int) -> dict[str, Tensor]:
        """Map `given`, by the names of the inputs, to the keywords of the network."""
        values = dict(given)
        for border in (condition.input.with_batch(pictures) for condition in self.conditions):
            if border.name in self.baked:
                values[border.name] = torch.full(
                    border.shape, self.baked[border.name], dtype=getattr(torch, border.dtype)
                )
        return encoded(self.conditions, values)


class SamplerGraph(nn.Module):
    """K-step consistency sampling (Song et al. 2023, algorithm 1) with constants folded.

    The first sample is sigma * noise (`noise_std` * noise); the graph multiplies unit noise by c_in*sigma and
    c_skip*sigma (at sigma 80: 0.99998 and 0.0031), never by 80, so that every constant and activation is a normal
    half-precision number. Editing tasks start at P image + sigma * noise (see `sampling.editing`), evaluated as
    sigma * (noise + P image / sigma) for the same reason, and put the known part back after each evaluation.

    Inputs of `forward`, by name: `noise` (N, C, H, W) unit variance, except for task "denoise"; `renoise`
    (K-1, N, C, H, W) where evaluations after the first take noise; what the model's conditions take, `label` (N,) int64
    say, unless it is baked; `image` (N, C, H, W) for editing tasks and `mask` (N, 1, H, W), 1 = keep, for "inpaint".
    Returns pictures (N, C, H, W) in [-1, 1], decoded where latents are sampled, or (N, H, W, C) bytes for output
    "uint8"; what a transform makes of them, where one is asked for.
    """

    def __init__(self, sampler: Sampler) -> None:
        super().__init__()
        request, task = sampler.request, task_named(sampler.request.task)
        self.network = sampler.model.network
        self.plan = sampler.plan
        self.as_bytes = sampler.signature.output.is_bytes
        transform = transform_of(sampler.model, request)
        self.transform = None if transform is None else transform.module()
        self.conditions = Conditions(sampler)
        self.codec = sampler.model.codec
        self.decoder = None if self.codec is None else self.codec.decoder
        self.encoder = None if self.codec is None or task.build is None else self.codec.encoder
        self.adds_noise = task.adds_noise
        self.editing = None if task.build is None else task.build(request)
        table = sampler.model.schedule
        self.keeps_noisy = task.masked and table is not None
        self.from_noise = self.keeps_noisy and table is not None and self.plan.sigmas[0] == table.sigmas[-1]
        for step, evaluation in enumerate(self.plan.evaluations):
            self.register_buffer(
                f"c_noise_{step}", torch.tensor([evaluation.c_noise], dtype=torch.float64), persistent=False
            )
            if evaluation.c_noise_target is not None:
                target = torch.tensor([evaluation.c_noise_target], dtype=torch.float64)
                self.register_buffer(f"{TARGET}_{step}", target, persistent=False)

    def _network(self, x: Tensor, step: int, conditions: Mapping[str, Tensor]) -> Tensor:
        jumps = self.plan.evaluations[step].c_noise_target is not None
        to = {TARGET: self.get_buffer(f"{TARGET}_{step}")} if jumps else {}
        result: Tensor = self.network(x, self.get_buffer(f"c_noise_{step}"), **conditions, **to)
        return result

    def _evaluate(self, sample: Tensor, scale: float, step: int, conditions: Mapping[str, Tensor]) -> Tensor:
        """Return what an evaluation makes of the sample times `scale`."""
        e, clip = self.plan.evaluations[step], self.plan.clip
        x = (e.c_skip * scale) * sample + e.c_out * self._network((e.c_in * scale) * sample, step, conditions)
        if clip is not None and e.mix is not None:
            x = e.mix[0] * x.clamp(-clip, clip) + (e.mix[1] * scale) * sample
        finished = (self.plan.renoises and not self.plan.noisy) or step == self.plan.steps - 1
        return x.clamp(-1.0, 1.0) if self.plan.clamp and finished else x

    def forward(
        self,
        noise: Tensor | None = None,
        renoise: Tensor | None = None,
        image: Tensor | None = None,
        mask: Tensor | None = None,
        **given: Tensor,
    ) -> Tensor:
        """Sample; see the class docstring for names and shapes."""
        if self.codec is not None and image is not None:
            image = self.codec.encode(image)
            # The nearest pixel, as diffusers.
            mask = None if mask is None else mask[:, :, :: self.codec.factor, :: self.codec.factor]
        sample, scale = self._start(noise, image, mask)
        conditions = self.conditions(given, len(sample))
        x = self._keep(self._evaluate(sample, scale, 0, conditions), 0, image, mask)
        for step, evaluation in enumerate(self.plan.evaluations[1:], start=1):
            if renoise is not None:
                x = x + evaluation.noise_std * renoise[step - 1]
            if self.keeps_noisy and self.editing is not None and image is not None and noise is not None:
                x = self.editing.keep(x, image + evaluation.sigma * noise, mask)
            x = self._keep(self._evaluate(x, 1.0, step, conditions), step, image, mask)
        x = x if self.codec is None else self.codec.decode(x)
        if self.transform is not None:
            transformed: Tensor = self.transform(x)
            return transformed
        return to_bytes(x) if self.as_bytes else x

    def _start(self, noise: Tensor | None, image: Tensor | None, mask: Tensor | None) -> tuple[Tensor, float]:
        """Return the first sample, divided by a number."""
        first = self.plan.evaluations[0]
        sigma = first.sigma
        if not self.adds_noise:
            assert image is not None
            return image, 1.0
        assert noise is not None
        if self.editing is None or self.from_noise:
            return noise, first.noise_std
        assert image is not None
        known = image if self.keeps_noisy else self.editing.known(image, mask)
        return noise + (1.0 / sigma) * known, sigma

    def _keep(self, x: Tensor, step: int, image: Tensor | None, mask: Tensor | None) -> Tensor:
        """Put the known part back, unless that waits for the next level's noise."""
        if self.editing is None or (self.keeps_noisy and step < self.plan.steps - 1):
            return x
        assert image is not None
        kept: Tensor = self.editing.keep(x, image, mask)
        return kept


def to_bytes(image: Tensor) -> Tensor:
    """(N, C, H, W) in [-1, 1] to (N, H, W, C) uint8, rounding to the nearest level.

    diffusers rounds, OpenAI's sampling script truncates; rounding halves the error and is what viewers expect.
    """
    levels = ((image + 1.0) * 127.5).clamp(0.0, 255.0).round()
    return levels.permute(0, 2, 3, 1).to(torch.uint8)
