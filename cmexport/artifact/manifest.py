"""`manifest.json`: everything needed to use an artefact, to check it and to make it again.

The schema is versioned. A reader refuses versions it doesn't know; a change that an old reader would misread takes a
new number.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Literal, Self, cast

from pydantic import AfterValidator, AwareDatetime, Field, NonNegativeInt, PositiveInt, model_validator

from cmexport.artifact.border_record import SignatureRecord
from cmexport.artifact.parity_record import ParityRecord
from cmexport.artifact.schema import PlainDict, PlainValue, Record, Sha256
from cmexport.errors import UsageError
from cmexport.model import Setting, SettingValue
from cmexport.signature import Signature, known

SCHEMA_VERSION = 2
MANIFEST_NAME = "manifest.json"


def _inside(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path or "\0" in path:
        raise ValueError("must be a relative path inside the artefact's folder")
    return path


class FileRecord(Record):
    """One file of the artefact; `path` is relative to the folder, with forward slashes.

    `role` is "model", "weights" (external data), "preview", or what a target calls its own extras.
    """

    path: Annotated[str, AfterValidator(_inside)]
    sha256: Sha256
    bytes: NonNegativeInt
    role: str


class SettingRecord(Record):
    """One resolved constant of the model and where it came from."""

    name: str
    value: PlainValue
    origin: str
    ambiguous: bool

    @property
    def setting(self) -> Setting:
        """As the rest of the package has it; JSON has lists where settings have tuples."""
        value = tuple(self.value) if isinstance(self.value, list) else self.value
        return Setting(self.name, cast(SettingValue, value), self.origin, self.ambiguous)


class AssumedRecord(Record):
    """A setting that was guessed, and the option that sets it."""

    name: str
    value: PlainValue
    origin: str
    option: str

    @property
    def setting(self) -> Setting:
        """As the rest of the package has it."""
        return SettingRecord(name=self.name, value=self.value, origin=self.origin, ambiguous=True).setting


class LoraRecord(Record):
    """LoRA weights that were merged: `path` is where the file lay then, `file` its name; `layers` counts them."""

    file: str
    path: str
    sha256: Sha256
    bytes: NonNegativeInt
    scale: float
    dialect: str
    layers: PositiveInt


class CheckpointRecord(Record):
    """The file the weights came from; `path` is where it lay then, `file` its name.

    `reference` finds them again where the path does not: a hub id, or `/absolute/module.py:build`; else empty.
    `license` is null where nothing says it; `license_origin` tells what does, or what was looked at. `parts` counts the
    weights of each part of a model that has several. `loras` were merged into them: `sha256` is then that of the
    checkpoint's hash, the files' and their scales.
    """

    file: str
    path: str
    reference: str = ""
    format: str
    sha256: Sha256
    bytes: NonNegativeInt
    license: str | None = None
    license_origin: str = "manifests of version 1 don't say"
    architecture: PlainDict
    parameters: NonNegativeInt
    parts: dict[str, NonNegativeInt] = Field(default_factory=dict)
    settings: tuple[SettingRecord, ...]
    loras: tuple[LoraRecord, ...] = ()


class EvaluationRecord(Record):
    """One network evaluation, f(x) = c_skip x + c_out F(c_in x, c_noise), as `sampling.evaluations.Evaluation`."""

    sigma: float
    c_skip: float
    c_out: float
    c_in: float
    c_noise: float
    noise_std: float
    c_noise_target: float | None = None
    mix: tuple[float, float] | None = None


class TransformRecord(Record):
    """What a graph does to finished pictures: its name, what comes out, in which unit, and how."""

    name: str
    quantity: str
    unit: str
    formula: str


class SamplingRecord(Record):
    """The sampler that the graph holds, and the range the model was trained on.

    `schedule` says in words how the levels were chosen; empty where it was not recorded. `sampler` is "consistency";
    "heun": then `evaluations` lists both evaluations of each step, and 0 closes the levels; "exact" or "euler": then
    c_skip and c_out are those of the step from one level to the next; "tcd", with `eta` where it is not the model's;
    "gamma", with `gamma`: then c_noise_target says where each jump ends, before noise is added.
    `clip`: f is clamped to plus and minus this, and the sample becomes mix[0] f + mix[1] x. `transform`: what is done
    to finished pictures; null where nothing is.
    """

    sigmas: tuple[float, ...] = Field(min_length=1)
    evaluations: tuple[EvaluationRecord, ...] = Field(min_length=1)
    sigma_min: float
    sigma_max: float
    sigma_data: float
    rho: float
    levels: PositiveInt
    precond: str
    c_noise: str
    renoise: str
    clamp: bool
    schedule: str = ""
    sampler: str = "consistency"
    eta: float | None = None
    gamma: float | None = None
    clip: float | None = None
    transform: TransformRecord | None = None


def _form(text: str) -> str:
    if text not in known.FORMS:
        raise ValueError(f"known are {', '.join(known.FORMS)}")
    return text


class WordingRecord(Record):
    """What a graph does with prompts.

    Attributes:
        condition: what it takes: "tokens", "embeddings", "prompt" (the number of one of `prompts`), or "baked".
        prompts: the closed list, or the one that is baked in; empty for the other forms.
        guidance: the scale that is baked in; null where it is an input, or the model has none.
        guidance_input: whether it is an input.
        calibration_prompts: what was said to it when it was calibrated and verified; empty: the packaged list, or
            `prompts`.
    """

    condition: Annotated[str, AfterValidator(_form)]
    prompts: tuple[str, ...] = ()
    guidance: float | None = None
    guidance_input: bool = False
    calibration_prompts: tuple[str, ...] = ()


class RewriteRecord(Record):
    """A graph rewrite and what it was measured to cost."""

    name: str
    applied: bool
    parameters_removed: int
    nodes_removed: int
    max_relative_error: float | None
    note: str
    measured: str = ""


class SimplificationRecord(Record):
    """What onnxsim did to the finished file: its version, and how many nodes there were before and after."""

    onnxsim: str
    nodes_before: PositiveInt
    nodes_after: PositiveInt


class SessionRecord(Record):
    """How the runtime was set up when the artefact was verified."""

    ep: str
    options: PlainDict


class GoldenRecord(Record):
    """Inputs and PyTorch's pictures for them, `.npz` files; `gate_db` as in `ParityRecord`."""

    inputs: Annotated[str, AfterValidator(_inside)]
    expected: Annotated[str, AfterValidator(_inside)]
    pictures: PositiveInt
    seed: int
    gate_db: float


class GraphRecord(Record):
    """One graph: its border, and the files it needs, the one to open first before the others.

    `name` is what the model file calls it where one file holds several.
    """

    name: str
    files: tuple[Annotated[str, AfterValidator(_inside)], ...] = Field(min_length=1)
    signature: SignatureRecord


class FunctionRecord(Record):
    """One run of an artefact that has several; the fields it shares with `Manifest` mean the same there.

    `files` are all that belong to it, those of its graphs first.
    """

    name: str
    files: tuple[Annotated[str, AfterValidator(_inside)], ...] = Field(min_length=1)
    task: str
    patch: PositiveInt | None
    sampling: SamplingRecord
    wording: WordingRecord | None = None
    numerics: PlainDict
    rewrites: tuple[RewriteRecord, ...]
    simplification: SimplificationRecord | None = None
    parity: ParityRecord | None
    golden: GoldenRecord | None = None


class Manifest(Record):
    """The whole of `manifest.json`.

    `patch` is the block size of task "superres", null for others; `label` is the class baked into the graph, null if
    none; `wording` is null where no prompt is taken; `classes` is null for unconditional models, `labels` are their
    names, where known; `parity` is null when verification was switched off. `assumed` lists the settings that were
    guessed; manifests older than it have them only in `checkpoint.settings`. `self_check` is what other readings of the
    weights gave on pictures, where something was guessed. `simplification` is null unless `--simplify` was asked for.
    `golden` is null without verification and for large pictures.

    `graphs` are all graphs with their borders; `runs` says which of them make a picture, in which order: one run for
    each task, or for each number of steps of one task ("1-step", "4-steps"). An artefact of one run has no `functions`.
    One of several lists them all there, and the fields above describe the first; `function` gives the manifest that any
    one of them would have alone.
    """

    schema_version: Literal[2]
    cmexport_version: str
    created: AwareDatetime
    name: str
    target: str
    precision: str
    task: str
    patch: PositiveInt | None = None
    files: tuple[FileRecord, ...]
    checkpoint: CheckpointRecord
    assumed: tuple[AssumedRecord, ...] = ()
    self_check: tuple[str, ...] = ()
    sampling: SamplingRecord
    wording: WordingRecord | None = None
    label: NonNegativeInt | None
    classes: PositiveInt | None
    labels: tuple[str, ...] | None = None
    graphs: tuple[GraphRecord, ...]
    runs: dict[str, tuple[str, ...]]
    numerics: PlainDict
    rewrites: tuple[RewriteRecord, ...]
    simplification: SimplificationRecord | None = None
    parity: ParityRecord | None
    golden: GoldenRecord | None = None
    tools: dict[str, str]
    session: SessionRecord
    functions: tuple[FunctionRecord, ...] = ()

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        names, runs = [g.name for g in self.graphs], list(self.runs.values())
        if not runs or len(set(names)) < len(names) or not all(run and set(run) <= set(names) for run in runs):
            raise ValueError("runs name graphs that are not there, or none")
        if [f.name for f in self.functions] != (list(self.runs) if len(self.runs) > 1 else []):
            raise ValueError("runs and functions don't agree")
        return self

    @property
    def signature(self) -> Signature:
        """The border of its first run."""
        border = {g.name: g.signature.signature for g in self.graphs}
        return Signature.chained([border[name] for name in self.runs[self.function_names[0]]])

    @property
    def function_names(self) -> tuple[str, ...]:
        """Names of its runs: their tasks, or their steps."""
        return tuple(self.runs)

    def function(self, name: str | None = None) -> Manifest:
        """The manifest of one run, as if it were alone; the first one without a name.

        The session options of a run out of several hold its name as `function`.

        Raises:
            UsageError: there is none of that name.
        """
        name = name or self.function_names[0]
        if name not in self.function_names:
            raise UsageError(
                f"--task {name}: this artefact holds {', '.join(self.function_names)}; export again for other tasks"
            )
        if not self.functions:
            return self
        chosen = next(f for f in self.functions if f.name == name)
        others = {path for f in self.functions for path in f.files} - set(chosen.files)
        ordered = sorted(self.files, key=lambda f: f.path not in chosen.files)
        return self.model_copy(
            update={
                **{k: getattr(chosen, k) for k in FunctionRecord.model_fields if k not in ("name", "files")},
                "files": tuple(f for f in ordered if f.path not in others),
                "graphs": tuple(g for g in self.graphs if g.name in self.runs[name]),
                "runs": {name: self.runs[name]},
                "session": SessionRecord(ep=self.session.ep, options={**self.session.options, "function": name}),
                "functions": (),
            }
        )
