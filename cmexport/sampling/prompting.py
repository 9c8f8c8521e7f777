"""Which form of the prompt a graph takes: tokens, the number of one of a closed list, embeddings, or none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from cmexport.errors import UsageError
from cmexport.model import Condition, ConsistencyModel, SampleRequest, encoded
from cmexport.networks.guided import GuidedNetwork
from cmexport.signature import Rows, Tokens, known

CONDITIONS = (known.TOKENS, known.EMBEDDINGS)


class ClosedList(nn.Module):
    """The number of a prompt (N,) to what the text encoder makes of it.

    All of it depends on finitely many numbers, so that the rewrites put a table in its place.
    """

    def __init__(self, tokens: Tensor, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.register_buffer("tokens", tokens, persistent=False)

    def forward(self, prompt: Tensor, *earlier: Tensor) -> Tensor:
        """Encode the chosen prompts; `earlier` is what `Condition.after` made of them."""
        encoded: Tensor = self.encoder(nn.functional.embedding(prompt, self.get_buffer("tokens")), *earlier)
        return encoded


def conditioned(model: ConsistencyModel, request: SampleRequest) -> ConsistencyModel:
    """Return the model with the conditions in the form that a request asks for.

    A model whose prompt has no text encoder any more, because a request gave it a form or its sampler was taken apart,
    keeps that form.

    Raises:
        UsageError: prompts or guidance for a model that takes none, or two forms at once.
    """
    _check(model, request)
    model = _guided(model, request)
    worded = model.worded
    if worded is None or worded.encode is None or worded.input.count is not None:
        return model
    forms = model.wordings
    if request.calibration_prompts:
        forms = tuple(_saying(model, form, request.calibration_prompts) for form in forms)
    if request.prompt is not None or request.prompts:
        forms = _closed(model, forms, request.prompts or (str(request.prompt),))
    elif request.condition == known.EMBEDDINGS:
        forms = embedded(forms)
    return replace(model, conditions=reworded(model.conditions, forms))


def _check(model: ConsistencyModel, request: SampleRequest) -> None:
    if request.condition not in CONDITIONS:
        raise UsageError(f"--condition {request.condition}: known are {', '.join(CONDITIONS)}")
    asked = {
        "--prompt": request.prompt is not None,
        "--prompts": bool(request.prompts),
        "--condition embeddings": request.condition == known.EMBEDDINGS,
    }
    forms = [name for name, given in asked.items() if given]
    if forms and model.worded is None:
        raise UsageError(f"{forms[0]}: this model takes no prompt")
    if len(forms) > 1:
        raise UsageError(f"{forms[0]} and {forms[1]} contradict each other: a prompt comes in one form")
    if request.calibration_prompts:
        _check_calibration(model, request)
    if (request.guidance is not None or request.guidance_input) and model.worded is None:
        raise UsageError("--guidance: this model takes none, since it takes no prompt")
    if request.guidance is not None and request.guidance_input:
        raise UsageError("--guidance and --guidance-input contradict each other")
    if request.guidance is not None and not 1 <= request.guidance <= 100:
        raise UsageError(f"--guidance {request.guidance:g}: must lie between 1 and 100")


def _guided(model: ConsistencyModel, request: SampleRequest) -> ConsistencyModel:
    """Return a model that knows no scale of guidance with two evaluations a step, where a request asks for one.

    At a scale of 1 nothing of the second evaluation would be left.
    """
    worded, asked = model.worded, request.guidance_input or request.guidance not in (None, 1.0)
    if not asked or worded is None or worded.encode is None or any(c.usual is not None for c in model.conditions):
        return model
    with torch.no_grad():
        empty = encoded(model.wordings, {worded.input.name: tokens_of(model, [""])})
    for wording in model.wordings:
        if wording.unsaid:
            empty[wording.name].zero_()
    usual = request.guidance or 1.0
    scale = known.guidance(1)
    largest = max((usual, *(scale.drawn.limits or ()))) if request.guidance_input else usual
    condition = Condition(known.GUIDANCE, scale, usual=usual)
    network = GuidedNetwork(model.network, empty, largest).eval()
    return replace(model, network=network, conditions=(*model.conditions, condition))


def _check_calibration(model: ConsistencyModel, request: SampleRequest) -> None:
    if model.worded is None:
        raise UsageError("--calibration-prompts: this model takes no prompt")
    if request.prompt is not None or request.prompts:
        form = "--prompts" if request.prompts else "--prompt"
        raise UsageError(
            f"--calibration-prompts and {form} contradict each other: the graph knows no other prompts than those of "
            f"{form}, and is calibrated and verified with them"
        )


def _saying(model: ConsistencyModel, worded: Condition, prompts: Sequence[str]) -> Condition:
    """Return the condition whose law draws `prompts`, in turn; what a part before made is drawn as it is."""
    law = worded.input.law
    if not isinstance(law, Tokens):
        return worded
    assert model.tokenizer is not None
    room = worded.input.picture_shape[0] - 2
    sentences = tuple(tuple(model.tokenizer.words(prompt)[:room]) for prompt in prompts)
    return replace(worded, input=replace(worded.input, law=replace(law, sentences=sentences)))


def tokens_of(model: ConsistencyModel, prompts: Sequence[str]) -> Tensor:
    """Return prompts as tokens (n, 77) int64."""
    assert model.tokenizer is not None
    return torch.tensor([model.tokenizer.encode(prompt) for prompt in prompts], dtype=torch.int64)


def reworded(conditions: Sequence[Condition], forms: Sequence[Condition]) -> tuple[Condition, ...]:
    """Return the conditions with `forms` in the place of those of the same names."""
    by_name = {form.name: form for form in forms}
    return tuple(by_name.get(condition.name, condition) for condition in conditions)


def _closed(model: ConsistencyModel, wordings: Sequence[Condition], prompts: Sequence[str]) -> tuple[Condition, ...]:
    if twice := [p for i, p in enumerate(prompts) if p in prompts[:i]]:
        raise UsageError(f"--prompts: {twice[0]!r} comes twice")
    taken, tokens, forms = known.prompt(1, len(prompts)), tokens_of(model, prompts), []
    for wording in wordings:
        assert wording.encode is not None
        encode = ClosedList(tokens, wording.encode).eval().requires_grad_(False)
        forms.append(replace(wording, input=taken, encode=encode))
    return tuple(forms)


def embedded(wordings: Sequence[Condition]) -> tuple[Condition, ...]:
    """Return conditions that take what text encoders made of the prompt; they draw what these make of real ones."""
    taken = wordings[0].input
    count = len(getattr(taken.drawn, "sentences", ())) or 1
    drawn = [taken.drawn.draw(taken.picture_shape, torch.Generator().manual_seed(i), i) for i in range(count)]
    with torch.no_grad():
        made = encoded(wordings, {taken.name: torch.from_numpy(np.stack(drawn))})
    joined, forms = known.POOLED in made, []
    for name, rows in made.items():
        law = Rows(list(rows.numpy()))
        if name == known.POOLED:
            forms.append(Condition(name, known.pooled(1, rows.shape[1], law)))
        else:
            length, width = rows.shape[1:]
            forms.append(Condition(name, known.embeddings(1, length, width, law, joined=joined)))
    return tuple(forms)
