"""What a kit says of its model: `kit.json`, and what templates write into an app's code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import Field

from cmexport import __version__
from cmexport.artifact import Manifest
from cmexport.artifact.manifest import FileRecord, GraphRecord
from cmexport.artifact.schema import PlainDict, Record
from cmexport.errors import ParityError, UsageError
from cmexport.labels import named
from cmexport.noise import NAME as NOISE
from cmexport.signature import Input, Output, known
from cmexport.sources import usual_settings
from cmexport.targets.registry import INFOS
from cmexport.tokenizer import read_tokenizer

FORMAT: Literal[1] = 1
TOKENIZER = "tokenizer"

_HIGHEST_LEAST_DB = 60.0
_MARGIN_DB = 3.0
# Of an artefact, what an app has no use for.
_LEFT_OUT = frozenset({"preview", "golden"})
# Numbers that a kit can make or ask an app for.
_TAKEN = frozenset({"noise", "renoise", "label", known.TOKENS, known.PROMPT, "guidance", "image", "mask"})


class KitTensor(Record):
    """An input or output of a graph; `layout` is "NCHW" for pictures and latents, "NHWC" for bytes, else "N..."."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    layout: str
    limits: tuple[float, float] | None = None

    @classmethod
    def of(cls, tensor: Input | Output) -> KitTensor:
        """Describe one; `limits` are the least and the largest number that an input takes, where there are some."""
        law = tensor.law if isinstance(tensor, Input) else None
        limits = None if law is None else law.limits
        return cls(
            name=tensor.name,
            dtype=tensor.dtype,
            shape=tensor.shape,
            layout="".join(axis[0] for axis in tensor.layout),
            limits=None if limits is None else (float(limits[0]), float(limits[1])),
        )


class KitGraph(Record):
    """A graph to run: its file below the kit's model folder, its name in a file that holds several, its border."""

    name: str
    file: str
    function: str | None
    inputs: tuple[KitTensor, ...]
    output: KitTensor


class KitRun(Record):
    """Graphs that run in turn and make one picture; each takes by name what earlier ones gave.

    Attributes:
        name: of the run: its task, unless an artefact has several of one.
        task: "generate", or how a picture is edited.
        steps: evaluations of the network.
        patch: side of the blocks of task "superres".
        graphs: in their order.
        inputs: what an app gives.
        output: the picture.
        least_db: PSNR of a picture on a device against the stored one, over bytes with peak 255, below which it is
            wrong.
    """

    name: str
    task: str
    steps: int
    patch: int | None
    graphs: tuple[KitGraph, ...]
    inputs: tuple[KitTensor, ...]
    output: KitTensor
    least_db: float

    def input(self, name: str) -> KitTensor | None:
        """Find an input by its name."""
        return next((i for i in self.inputs if i.name == name), None)

    @property
    def picture(self) -> tuple[int, int, int]:
        """Height, width and channels of the finished picture."""
        if self.output.layout == "NHWC":
            return self.output.shape[1], self.output.shape[2], self.output.shape[3]
        return self.output.shape[2], self.output.shape[3], self.output.shape[1]


class KitTokenizer(Record):
    """The folder of a tokenizer's files below the kit's model folder, and the ids around a prompt."""

    folder: str
    begin: int
    end: int
    pad: int
    unknown: int
    length: int


class Kit(Record):
    """All that templates know; `kit.json` is this.

    Attributes:
        format: of `kit.json`.
        name: of the model.
        cmexport: version that made the kit.
        artifact: the artefact's name.
        target: what it was exported for.
        precision: its precision.
        license: of the weights, null where nothing says.
        noise: how noise is made of a seed.
        labels: a name for each class; null where no label is taken.
        prompts: the closed list that `prompt` counts in; null where none is taken.
        tokenizer: null where no text is taken.
        guidance: the scale that pictures have unless an app says another, where it is an input; null elsewhere.
        session: how the runtime was set up when the artefact was verified; of Core ML the oldest iOS, `ios`.
        files: of the artefact, unchanged, by their paths below the kit's model folder.
        runs: what it can do; the first is the usual one.
    """

    format: Literal[1] = FORMAT
    name: str
    cmexport: str
    artifact: str
    target: str
    precision: str
    license: str | None
    noise: str = NOISE
    labels: tuple[str, ...] | None
    prompts: tuple[str, ...] | None
    tokenizer: KitTokenizer | None
    guidance: float | None
    session: PlainDict = Field(default_factory=dict)
    files: tuple[FileRecord, ...]
    runs: tuple[KitRun, ...]

    def run(self, name: str) -> KitRun:
        """Find a run by its name."""
        return next(run for run in self.runs if run.name == name)

    @property
    def main(self) -> KitRun:
        """The usual run."""
        return self.runs[0]

    @property
    def editing(self) -> tuple[KitRun, ...]:
        """The runs that take a picture."""
        return tuple(run for run in self.runs if run.input("image") is not None)

    def method(self, run: KitRun) -> str:
        """Name what draws a run's pictures in an app's code: the run's name, "edit" where only one takes a picture."""
        return "edit" if self.editing == (run,) else run.name

    @property
    def model_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.bytes for file in self.files)


def kit_of(folder: Path, manifest: Manifest, labels: str | None = None) -> Kit:
    """Gather what a kit says of an artefact.

    Args:
        folder: the artefact.
        manifest: its manifest.
        labels: names of the classes instead of the manifest's: a file, or a set known by name.

    Raises:
        UsageError: it was not verified, draws several pictures at once, takes what an app can't make, or has another
            number of classes than there are names.
        ParityError: it failed its gate.
        CheckpointError: its tokenizer, or the file of names, can't be read.
    """
    parts = [manifest.function(name) for name in manifest.function_names]
    suffix = INFOS[manifest.target].suffix
    opened = {graph.name: _opened(graph.files[0], suffix) for graph in manifest.graphs}
    runs = tuple(_run(folder, part, opened) for part in parts)
    taken = {i.name: i for run in runs for i in run.inputs}
    tokenizer = read_tokenizer(folder / TOKENIZER) if known.TOKENS in taken else None
    wording = manifest.wording
    return Kit(
        name=manifest.name,
        cmexport=__version__,
        artifact=folder.name,
        target=manifest.target,
        precision=manifest.precision,
        license=manifest.checkpoint.license,
        labels=_labels(manifest, "label" in taken, labels),
        prompts=wording.prompts if wording is not None and known.PROMPT in taken else None,
        tokenizer=None
        if tokenizer is None
        else KitTokenizer(
            folder=TOKENIZER,
            **{name: getattr(tokenizer, name) for name in ("begin", "end", "pad", "unknown", "length")},
        ),
        guidance=_guidance(manifest),
        session=manifest.session.options,
        files=tuple(file for file in manifest.files if file.role not in _LEFT_OUT),
        runs=runs,
    )


def _run(folder: Path, manifest: Manifest, opened: Mapping[str, str]) -> KitRun:
    """Describe the one run of a manifest; `opened` is the file of each graph of the artefact."""
    if folder.name.endswith(".rejected") or (manifest.parity is not None and not manifest.parity.passed):
        raise ParityError(f"{folder}: failed its parity gate; apps get no kit of pictures that are wrong")
    if manifest.parity is None:
        raise UsageError(f"{folder}: was not verified; export it again without --no-verify")
    signature = manifest.signature
    if signature.batch != 1:
        raise UsageError(f"{folder}: draws {signature.batch} pictures at once; kits take artefacts of --batch 1")
    if signature.output.columns:
        raise UsageError(f"{folder}: gives {signature.output.meaning.split(',')[0]}, and kits show pictures")
    if foreign := [i.name for i in signature.inputs if i.name not in _TAKEN]:
        raise UsageError(
            f"{folder}: takes '{foreign[0]}', which an app has no way to make; export it to take prompts, a list of "
            f"them, or classes, or bake a value in: --set {foreign[0]}=..."
        )
    if signature.output.dtype == "float32" and signature.output.range not in (None, (-1.0, 1.0)):
        raise UsageError(f"{folder}: gives {signature.output.meaning.split(',')[0]}, and kits show pictures")
    by_name = {graph.name: graph for graph in manifest.graphs}
    name = manifest.function_names[0]
    graphs = [by_name[each] for each in manifest.runs[name]]
    worst = manifest.parity.rungs[-1].difference.min_db
    return KitRun(
        name=name,
        task=manifest.task,
        steps=len(manifest.sampling.evaluations),
        patch=manifest.patch,
        graphs=tuple(_graph(graph, opened) for graph in graphs),
        inputs=tuple(map(KitTensor.of, signature.inputs)),
        output=KitTensor.of(signature.output),
        least_db=_least_db(worst),
    )


def _least_db(worst: float | None) -> float:
    """Return what pictures must reach as bytes on another processor, of a file whose worst had `worst` dB as floats.

    Another processor rounds elsewhere, about as far from PyTorch as this file is: 3 dB are two such errors. As bytes a
    difference of D dB that is small against a level sets 0.8 of its size of them off by one: 25 + D / 2 dB.
    """
    if worst is None:
        return _HIGHEST_LEAST_DB
    apart = worst - _MARGIN_DB
    return round(min(_HIGHEST_LEAST_DB, apart, 25 + apart / 2), 1)


def _graph(graph: GraphRecord, opened: Mapping[str, str]) -> KitGraph:
    border = graph.signature.signature
    file = opened[graph.name]
    shared = list(opened.values()).count(file) > 1
    return KitGraph(
        name=graph.name,
        file=file,
        function=graph.name if shared else None,
        inputs=tuple(map(KitTensor.of, border.inputs)),
        output=KitTensor.of(border.output),
    )


def _opened(path: str, suffix: str) -> str:
    """Return what a runtime opens: the file, or the package that it lies in."""
    parts = PurePosixPath(path).parts
    inside = [index for index, part in enumerate(parts) if part.endswith(suffix)]
    return "/".join(parts[: inside[0] + 1]) if inside else path


def _labels(manifest: Manifest, taken: bool, wanted: str | None) -> tuple[str, ...] | None:
    if not taken:
        if wanted is not None:
            raise UsageError(f"--labels {wanted}: this artefact takes no label")
        return None
    assert manifest.classes is not None
    if wanted is not None:
        return named(wanted, manifest.classes)
    return manifest.labels or tuple(f"class {number}" for number in range(manifest.classes))


def _guidance(manifest: Manifest) -> float | None:
    """Return the model's own scale where one is an input, or the middle of what that takes."""
    taken = next((i for i in manifest.signature.inputs if i.name == known.GUIDANCE), None)
    if taken is None:
        return None
    low, high = taken.drawn.range or (1.0, 1.0)
    own = usual_settings(manifest.signature, (record.setting for record in manifest.checkpoint.settings))
    values = (s.value for s in own if s.name == known.GUIDANCE)
    usual = next((float(value) for value in values if isinstance(value, int | float)), (low + high) / 2)
    return min(max(usual, low), high)
