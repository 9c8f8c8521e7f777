"""What a recipe file may hold. `docs/recipe.schema.json` is made from these models; editors complete from it.

Paths are relative to the file they are written in. Line numbers, nearest names and everything that needs more than one
entry to judge are `checking.py`'s.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, create_model

from cmexport.recipes.names import Condition, Output, Precision, Sampler, TargetName, TaskName, owners
from cmexport.targets.info import Decibel
from cmexport.targets.registry import INFOS

ANY_PRECISION = "*"


class Part(BaseModel):
    """A table: unknown keys are refused, and nothing is converted that TOML has a type for."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def _text(value: Any) -> str:
    """A value of `--set` as the command line would have it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value)):
        return str(value)
    if isinstance(value, list) and value and all(type(item) is int for item in value):
        return ",".join(map(str, value))
    raise ValueError("must be a number, a text, true, false, or a list of whole numbers")


def _gates(value: Any) -> dict[str, float]:
    gates = value if isinstance(value, Mapping) else {ANY_PRECISION: value}
    for precision, gate in gates.items():
        if isinstance(gate, bool) or not isinstance(gate, int | float) or not 0 < gate < 1000:
            which = "" if precision == ANY_PRECISION else f" of {precision}"
            raise ValueError(f"the gate{which} must be a PSNR in dB, e.g. 45, or a table of them: {{ fp16 = 70 }}")
    return {str(precision): float(gate) for precision, gate in gates.items()}


Constant = Annotated[
    str,
    BeforeValidator(_text),
    WithJsonSchema({"type": ["string", "number", "boolean", "array"], "items": {"type": "integer"}}),
]
"""A constant of the model, as `--set` takes it."""

Gates = Annotated[
    dict[str, float],
    BeforeValidator(_gates),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "exclusiveMinimum": 0},
                {"type": "object", "additionalProperties": {"type": "number", "exclusiveMinimum": 0}},
            ]
        }
    ),
]
"""One gate in dB for all precisions of a target, or one for each by name."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=1)]
Needs = Annotated[list[str], Field(description="Tables that must have succeeded before: names of targets and plans.")]
Optional = Annotated[
    bool, Field(description="Skipped, with the reason, where a library or the device is missing (exit code 5).")
]
Precisions = Annotated[list[Precision], Field(min_length=1)]
Chosen = Annotated[list[str], Field(description="Names of [targets] tables; default all that can be run there.")]


class Checkpoint(Part):
    """The trained model."""

    file: str | None = Field(
        default=None, description="File or folder. Default: the demo model that ships with cmexport."
    )
    url: str | None = Field(
        default=None, description="Where it is to be had; shown when it is missing. Never downloaded."
    )
    sha256: Sha256 | None = Field(default=None, description="What the file must hash to.")
    trust: bool = Field(
        default=False, description="--trust-checkpoint: let the file run its own code while it is read."
    )
    weights: Annotated[str, Field(min_length=1)] | None = Field(
        default=None, description="Which of several sets of weights, as --weights takes it: a prefix, ema, a subfolder."
    )
    labels: Annotated[str, Field(min_length=1)] | None = Field(
        default=None, description="Names of the classes, as --labels takes them: a file, or a known set."
    )
    lora: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)] | None = Field(
        default=None, description="LoRA files to merge, each FILE or FILE:SCALE, as --lora takes them."
    )
    set: dict[str, Constant] = Field(default_factory=dict, description="Constants to override, as --set takes them.")


class Schedule(Part):
    """Noise levels to evaluate: one of steps, timesteps and sigmas; none means one step at sigma_max."""

    steps: Count | None = Field(default=None, description="K evaluations.")
    timesteps: Annotated[list[int], Field(min_length=1)] | None = Field(
        default=None,
        description="diffusers' timesteps, descending to 0: [22, 0]; of a latent model its own: [999, 499].",
    )
    levels: Annotated[int, Field(ge=2)] | None = Field(default=None, description="N that timesteps count in.")
    sigmas: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)] | None = Field(
        default=None, description="Noise levels evaluated, descending: [80.0, 1.38]."
    )
    strength: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None, description="Latent few-step models: how much of a picture to edit is painted anew."
    )
    sampler: Sampler = Field(
        default="consistency",
        description="heun: the deterministic sampler of diffusion, a baseline; exact: CTM's jumps; gamma: these "
        "with noise between; euler: ODE steps; tcd: latent few-step models.",
    )
    eta: Annotated[float, Field(ge=0, le=1)] | None = Field(default=None, description="tcd: noise between steps.")
    gamma: Annotated[float, Field(ge=0, le=1)] | None = Field(default=None, description="gamma: noise between jumps.")

    @property
    def is_own(self) -> bool:
        """Whether it is for the sampler that the models are made for, the default."""
        return self.sampler == Schedule().sampler


class TargetPart(Part):
    """What is exported: one artefact for each precision and schedule."""

    target: TargetName | None = Field(default=None, description="Default: the table's own name.")
    precisions: Precisions = Field(default_factory=lambda: list[Precision](("fp32",)))
    gate_db: Gates = Field(
        default_factory=dict, description="PSNR in dB that the pictures must reach, above cmexport's own gates."
    )
    schedules: Annotated[list[str], Field(min_length=1)] | None = Field(
        default=None, description="Names from [schedules]: an artefact each. Default: one step."
    )
    tasks: Annotated[list[TaskName], Field(min_length=1)] = Field(
        default_factory=lambda: list[TaskName](("generate",)),
        description="Several: one artefact with a graph for each.",
    )
    patch: Count | None = Field(default=None, description="superres: side of the blocks whose means are known.")
    label: Annotated[int, Field(ge=0)] | None = Field(default=None, description="Class to bake in.")
    prompt: str | None = Field(default=None, description="Prompt to bake in.")
    prompts: str | None = Field(default=None, description="A closed list: a file, one prompt a line.")
    condition: Condition = Field(default="tokens", description="What a graph takes that has neither.")
    guidance: Annotated[float, Field(ge=1, le=100)] | None = Field(default=None, description="Scale to bake in.")
    guidance_input: bool = Field(default=False, description="Leave the guidance scale to the app.")
    calibration_prompts: str | None = Field(
        default=None, description="What calibration and verification say: a file, one prompt a line."
    )
    levels_of: dict[str, Annotated[int, Field(ge=2)]] = Field(
        default_factory=dict, description="To how many values a number that the graph takes is rounded."
    )
    output_transform: str | None = Field(default=None, description="What pictures mean: heights.")
    decoder: str | None = Field(default=None, description="What decodes latents: tiny:FOLDER, or kl.")
    batch: Count = Field(default=1, description="Pictures per run.")
    output: Output = Field(default="float", description="Floats, or bytes; image is Core ML's word for these.")
    rewrites: str = Field(default="all", description="all, none or names with commas between.")
    seeds: Annotated[int, Field(ge=8)] | None = Field(default=None, description="Pictures compared on every rung.")
    verify: bool = Field(default=True, description="false: --no-verify.")
    optional: Optional = False
    needs: Needs = Field(default_factory=list)

    def own(self, key: str) -> Any:
        """An option that only some targets have; None where it isn't given, or none has it."""
        return getattr(self, key, None)


def _own_fields() -> dict[str, Any]:
    """Options that only some targets have, as fields: None, or False, is not given."""
    found: dict[str, Any] = {}
    spelled = {key: option for info in INFOS.values() for key, option in info.by_key.items()}
    for key, option in spelled.items():
        text = f"{', '.join(owners(key))}: {option.recipe_help or option.help}"
        kind = option.recipe or (str if option.is_file else option.kind)
        flag = kind is bool
        found[key] = (kind if flag else kind | None, Field(default=False if flag else None, description=text))
    return found


if TYPE_CHECKING:
    Target = TargetPart
else:
    Target = create_model("Target", __base__=TargetPart, __doc__=TargetPart.__doc__, **_own_fields())


class Plan(Part):
    """A precision plan for int8, scored layer by layer (`cmexport plan`)."""

    pictures: Count | None = None
    calibration: Count | None = None
    keep_db: Decibel | None = Field(
        default=None, description="Layers go to float, worst first, until this is predicted."
    )
    schedule: str | None = Field(default=None, description="A name from [schedules].")
    task: TaskName = "generate"
    patch: Count | None = None
    label: Annotated[int, Field(ge=0)] | None = None
    calibration_prompts: str | None = Field(default=None, description="A file, one prompt a line.")
    optional: Optional = False
    needs: Needs = Field(default_factory=list)


class Verify(Part):
    """How thousands of pictures are distributed, artefact beside PyTorch (`cmexport verify --features`)."""

    features: str = Field(description="A ruler .pt file, module:callable, or inception.")
    statistics: str | None = Field(default=None, description=".npz with mu and cov of real pictures' features.")
    count: Annotated[int, Field(ge=2)] | None = None
    seed: Annotated[int, Field(ge=0)] | None = None
    batch: Count | None = None
    max_distance: Annotated[float, Field(ge=0)] | None = Field(
        default=None, description="Farther apart is a failed gate."
    )
    targets: Chosen | None = None
    precisions: Precisions | None = Field(default=None, description="Only artefacts of these.")
    optional: Optional = False


class Device(Part):
    """Where artefacts are benched (`cmexport bench`)."""

    device: str | None = Field(default=None, description="As --device takes it. Default: the table's own name.")
    targets: Chosen | None = None
    precisions: Precisions | None = Field(default=None, description="Only artefacts of these.")
    runs: Count | None = None
    seconds: Annotated[float, Field(ge=0)] | None = None
    max_seconds: Annotated[float, Field(ge=0)] | None = Field(
        default=None, description="Seconds of timed runs at most, whatever their number; 0: no limit."
    )
    require_quiet: bool = Field(default=False, description="Exit code 5 instead of figures beside other work.")
    threads: Annotated[int, Field(ge=0)] | None = None
    sustained: Annotated[float, Field(ge=0)] | None = Field(default=None, description="Minutes.")
    repeats: Count | None = None
    energy: Literal["auto", "off", "nvml", "rapl", "soc", "battery"] | None = None
    provider: str | None = None
    pictures: Count | None = None
    task: TaskName | None = Field(default=None, description="Which graph, of artefacts with several.")
    identity: str | None = Field(default=None, description="ssh: private key.")
    known_hosts: str | None = Field(default=None, description="ssh: file of host keys.")
    python: str | None = Field(default=None, description="Interpreter on the device.")
    native: str | None = Field(default=None, description="adb: a runner built for the device.")
    host: str | None = Field(default=None, description="browser: address to serve on.")
    port: Annotated[int, Field(ge=0, le=65535)] | None = Field(default=None, description="browser: port.")
    optional: Optional = False
    needs: Needs = Field(default_factory=list)


class Report(Part):
    """The report of all records and artefacts (`cmexport report`); file names in the output folder."""

    html: str = "report.html"
    markdown: str = "report.md"


class Recipe(Part):
    """A whole recipe."""

    extends: str | None = Field(
        default=None, description="Another recipe whose entries hold where this one says nothing."
    )
    description: str = Field(default="", description="One line, shown above the plan.")
    out: str | None = Field(
        default=None, description="Output folder, relative to where the command runs. Default: out/<name>."
    )
    jobs: Annotated[int, Field(ge=1, le=64)] | None = Field(
        default=None, description="Exports at a time. Default: 2 where there are two cores and the checkpoint is small."
    )
    checkpoint: Checkpoint = Checkpoint()
    schedules: dict[str, Schedule] = Field(default_factory=dict)
    targets: dict[str, Target] = Field(default_factory=dict)
    plans: dict[str, Plan] = Field(default_factory=dict)
    verify: Verify | None = None
    devices: dict[str, Device] = Field(default_factory=dict)
    report: Report | None = None


def json_schema() -> dict[str, Any]:
    """The published schema."""
    schema = Recipe.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "cmexport recipe"}


def schema_text() -> str:
    """The published file, docs/recipe.schema.json."""
    return json.dumps(json_schema(), indent=1) + "\n"
