"""The recipe that `cmexport init` writes: short, commented, and valid as it stands."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from cmexport.model import Setting

_HEAD = """\
# A recipe for {name}. Run it with:  cmexport run {file}
# Every key is described in docs/recipes.md.
description = {description}

[checkpoint]
{checkpoint}
"""

_SETTINGS = """\
# What the weights can't tell, as it is assumed now. Mend what is wrong; `cmexport inspect` says where each comes from.
[checkpoint.set]
"""

_REST = """\

# Noise levels to evaluate. {few}; more cost as many times the latency.
[schedules]
{schedule} = {{ steps = {steps} }}
{two_steps}

# One artefact for each precision (and schedule). Delete what you don't need.
[targets.onnx]
precisions = ["fp32", "fp16"]      # also: "int8" (weights and activations), "w8", "w4" (weights only)
schedules = ["{schedule}"]
# gate_db = {{ fp16 = 70 }}          # above cmexport's own gates: fp32 100, fp16 60, w8 52, w6 42, int8 38, w4 30 dB
# ep = "cuda"                      # form of the graph: cpu, cuda, arm, web, xnnpack, qnn, ...
# output = "uint8"                 # bytes (N, H, W, C) instead of floats
# tasks = ["generate", "inpaint"]  # a graph for each task{label}

[targets.coreml]
precisions = ["fp16", "w6"]        # also: "fp32", "int8", "w8", "w4"; "mixed" with budget_db = 45
schedules = ["{schedule}"]
optional = true                    # skipped where coremltools is not installed
# ios = 17                         # oldest release that is to run it

[targets.tensorrt]
precisions = ["fp16"]              # also: "fp32", "bf16", "int8", "fp8"
schedules = ["{schedule}"]
optional = true

# Where to measure latency, memory and energy. Others: "ssh://user@host", "adb://serial", "browser", "folder://DIR".
[devices.local]
# runs = 30
# seconds = 10

# [devices.phone]
# device = "adb"
# optional = true                  # skipped while no phone is attached

[report]
"""


@dataclass(frozen=True)
class Subject:
    """What a recipe is written for.

    Attributes:
        name: of the checkpoint.
        file: path to write, relative to the recipe; None: the demo model.
        what: one line: pictures, classes.
        classes: of a conditional model.
        assumed: constants that are guesses, to be confirmed.
        sigmas: two tuned levels, and whose they are; None where none are known.
        weights: which of several sets of weights; None where the file holds one.
        steps: of a latent few-step model by default; None for other models.
    """

    name: str
    file: str | None
    what: str
    classes: int | None
    assumed: Sequence[Setting]
    sigmas: tuple[str, tuple[float, ...]] | None
    weights: str | None = None
    steps: int | None = None


def recipe_text(subject: Subject, recipe_file: str) -> str:
    """The recipe."""
    if subject.file is None:
        checkpoint = '# file = "my_model.pt"              # without it: the demo model that ships with cmexport'
    else:
        checkpoint = f"file = {_string(subject.file)}"
    if subject.weights is not None:
        checkpoint += f"\nweights = {_string(subject.weights)}  # one of several sets in this file"
    text = _HEAD.format(
        name=subject.name,
        file=recipe_file,
        description=_string(f"{subject.name}: {subject.what}"),
        checkpoint=checkpoint,
    )
    if subject.assumed:
        text += "\n" + _SETTINGS + "".join(f"{s.name} = {_value(s.value)}  # {s.origin}\n" for s in subject.assumed)
    label = (
        ""
        if subject.classes is None
        else f"\n# label = 0                        # bake one of {subject.classes} classes in"
    )
    if subject.steps is None:
        few, schedule, steps = "One step is what consistency models are for", "one-step", 1
    else:
        few, schedule, steps = f"{subject.steps} evaluations are usual of this scheduler", "usual", subject.steps
        label += '\n# prompt = "a cat"                 # bake one prompt in; prompts = "words.txt": a closed list'
    rest = _REST.format(two_steps=_two_steps(subject), label=label, few=few, schedule=schedule, steps=steps)
    return text + rest


def _two_steps(subject: Subject) -> str:
    if subject.sigmas is None:
        return "# two-steps = { steps = 2 }        # evenly spaced; `cmexport tune --steps 2` finds better ones"
    owner, sigmas = subject.sigmas
    levels = ", ".join(map(repr, sigmas))
    return f"two-steps = {{ sigmas = [{levels}] }}  # tuned levels of {owner}; no target uses them yet"


def _string(text: str) -> str:
    """A basic string of TOML: JSON's escapes are TOML's but for the delete character."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(str, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return _string(value) if isinstance(value, str) else repr(value)
