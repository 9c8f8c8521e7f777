"""What an engine is made of: its layers, the types they compute in, and which operators were fused into each.

TensorRT describes a finished engine one layer a line, in the builder's log and from its engine inspector alike
(verbosity DETAILED, which costs no byte of the engine; format ONELINE). The inspector needs a GPU that can load the
engine; the log comes with every build, also on machines without one. So the description is read once, when the engine
is built, and kept beside it as JSON.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError

from cmexport.errors import CheckpointError
from cmexport.files import require_file

HEADING = "Layers:\n"
"""How the description starts, in the log and from the inspector."""

_FIELD = re.compile(r"(Inputs|Constants|Outputs): \[")
_DIMENSIONS = re.compile(r"Dimensions: \[([\d, ]*)\]")
_TYPE = re.compile(r"(?:Datatype|Format/Datatype): (\w+)")
_OPERATOR = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
_KIND = re.compile(r", LayerType: (\w*)")
_TACTIC = re.compile(r", TacticName: ([^,]*)")

# Widths in bits of the types that arithmetic is done in; whole numbers of indices are not listed.
_WIDTHS = {"Float": 32, "Half": 16, "BFloat16": 16, "BF16": 16, "Int8": 8, "FP8": 8, "Float8": 8, "FP4": 4, "Int4": 4}
_NAMES = {
    **{"Float": "fp32", "Half": "fp16", "BFloat16": "bf16", "BF16": "bf16", "Int8": "int8", "FP8": "fp8"},
    **{"Float8": "fp8", "FP4": "fp4", "Int4": "int4"},
}

# Sizes and switches that a kernel takes beside its data have a single element, or one per channel.
_DATA_RANK = 3


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LayerTensor(_Record):
    """One tensor at a layer's border; `type` as TensorRT calls it: Float, Half, BFloat16, Int8, FP8, ..."""

    name: str
    shape: tuple[NonNegativeInt, ...]
    type: str

    @property
    def is_data(self) -> bool:
        """Whether it is a picture, tokens or features, not a scale, a bias or an index."""
        return len(self.shape) >= _DATA_RANK and self.type in _WIDTHS


class Layer(_Record):
    """One layer of an engine: what one kernel does.

    `operators` are the ONNX nodes that were fused into it; none for copies and synchronization that TensorRT added.
    """

    name: str
    kind: str
    tactic: str
    inputs: tuple[LayerTensor, ...]
    constants: tuple[LayerTensor, ...]
    outputs: tuple[LayerTensor, ...]
    operators: tuple[str, ...]

    @property
    def precision(self) -> str | None:
        """The narrowest type of what it reads and writes ("int8": its operands are); None if it handles no numbers."""
        types = {t.type for t in (*self.inputs, *self.constants, *self.outputs) if t.is_data}
        return _NAMES[min(types, key=lambda t: _WIDTHS[t])] if types else None


class EngineLayers(_Record):
    """The description of one engine, as kept in `<engine>.layers.json`.

    `weights_bytes` and `activation_bytes` are what TensorRT says it needs on the GPU, None where it says nothing.
    """

    schema_version: Literal[1] = 1
    engine: str
    library: str
    bytes: NonNegativeInt
    weights_bytes: NonNegativeInt | None
    activation_bytes: NonNegativeInt | None
    layers: Annotated[tuple[Layer, ...], Field(min_length=1)]

    def by_precision(self) -> dict[str, int]:
        """Layers counted by `Layer.precision`, those that handle no numbers left out."""
        return dict(Counter(p for p in (layer.precision for layer in self.layers) if p is not None).most_common())

    def float_layers(self) -> tuple[Layer, ...]:
        """Layers all of whose data is float32."""
        return tuple(layer for layer in self.layers if layer.precision == "fp32")


def parse_layers(description: str) -> tuple[Layer, ...]:
    """Layers of a description in TensorRT's ONELINE format; lines of another form are skipped."""
    return tuple(filter(None, (_layer(line) for line in description.splitlines())))


def _layer(line: str) -> Layer | None:
    kind, tactic = _KIND.search(line), _TACTIC.search(line)
    if not line.startswith("Name: ") or kind is None:
        return None
    sections = {m.group(1): line[m.end() : _closing(line, m.end())] for m in _FIELD.finditer(line)}
    return Layer(
        name=line[len("Name: ") : kind.start()],
        kind=kind.group(1),
        tactic=tactic.group(1) if tactic else "",
        inputs=tuple(_tensors(sections.get("Inputs", ""))),
        constants=tuple(_tensors(sections.get("Constants", ""))),
        outputs=tuple(_tensors(sections.get("Outputs", ""))),
        operators=tuple(dict.fromkeys(_OPERATOR.findall(line))),
    )


def _closing(text: str, start: int) -> int:
    """Where the bracket that was opened before `start` is closed; the end of a line that was cut off."""
    depth = 1
    for index in range(start, len(text)):
        depth += (text[index] == "[") - (text[index] == "]")
        if depth == 0:
            return index
    return len(text)


def _tensors(section: str) -> Iterator[LayerTensor]:
    for part in section.split("{ Name: ")[1:]:
        shape, kind = _DIMENSIONS.search(part), _TYPE.search(part)
        if shape is None or kind is None:
            continue
        sides = tuple(int(side) for side in shape.group(1).replace(" ", "").split(",") if side)
        yield LayerTensor(name=part.split(",", 1)[0], shape=sides, type=kind.group(1))


def layers_path(engine: Path) -> Path:
    """Where the description of an engine lies."""
    return engine.with_suffix(".layers.json")


def write_layers(found: EngineLayers, engine: Path) -> Path:
    """Write the description beside its engine.

    Raises:
        OSError: it can't be written.
    """
    path = layers_path(engine)
    path.write_text(found.model_dump_json() + "\n", encoding="utf-8")
    return path


def read_layers(path: Path) -> EngineLayers:
    """Read an engine's description of its layers.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    require_file(path, "a description of an engine")
    try:
        content = json.loads(path.read_bytes())
        return EngineLayers.model_validate(content)
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        what = "not a description of an engine" if isinstance(error, ValidationError) else "not JSON"
        raise CheckpointError(f"{path}: damaged, {what}; export the model again") from error


def summary(
    found: EngineLayers, precision: str, kept: Collection[str], norms: Collection[str] = ()
) -> Mapping[str, Any]:
    """What the manifest says of an engine: layers by precision, and what computes in float32.

    Args:
        found: the engine.
        precision: what was asked for; "fp32" has nothing to fall back from.
        kept: names of the operators that were left in float32 on purpose.
        norms: names of normalizations, whose statistics are float32 by definition; a layer of its own where TensorRT
            splits one.
    """
    asked, wide = set(kept), set(norms)
    lines = [
        _line(layer)
        for layer in found.float_layers()
        if not asked.intersection(layer.operators) and not (layer.operators and wide.issuperset(layer.operators))
    ]
    return {
        "layers": len(found.layers),
        "layers_by_precision": found.by_precision(),
        "weights_bytes": found.weights_bytes,
        "activation_bytes": found.activation_bytes,
        "float32_fallbacks": [] if precision == "fp32" else lines,
    }


def _line(layer: Layer) -> str:
    return f"{layer.name}: {', '.join(layer.operators) or 'added by TensorRT'}"
