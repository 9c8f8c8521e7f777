"""The border of a graph as it stands in the manifest: enough to draw any input again, known by name or not."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import NonNegativeInt, model_validator

from cmexport.artifact.schema import Record
from cmexport.signature import Input, Output, Signature
from cmexport.signature.laws import law_named

Dtype = Literal["float16", "float32", "float64", "int32", "int64", "uint8"]


class _TensorRecord(Record):
    """An input or output; `layout` names what each axis counts, "N" are the pictures; `dtype` is a numpy name.

    `range` is between which numbers its values lie, null where nothing says so.
    """

    name: str
    dtype: Dtype
    shape: tuple[NonNegativeInt, ...]
    layout: tuple[str, ...]
    batch_axis: int | None
    range: tuple[float, float] | None
    meaning: str

    @classmethod
    def of(cls, tensor: Input | Output) -> Self:
        """What is recorded of one."""
        return cls(**_facts(tensor))

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if _facts(self.tensor) != dict(self):
            raise ValueError("layout, batch axis, range and law don't agree")
        return self

    @property
    def tensor(self) -> Input | Output:
        """What was recorded."""
        raise NotImplementedError


class OutputRecord(_TensorRecord):
    """The output of a graph. `columns`: the range of each column along the last axis, where they have their own."""

    columns: tuple[tuple[float, float], ...] = ()

    @property
    def tensor(self) -> Output:
        """What was recorded."""
        return Output(self.name, self.shape, self.dtype, self.layout, self.range, self.meaning, self.columns)


class InputRecord(_TensorRecord):
    """An input of a graph; `law` says what it is drawn from, `parameters` with which numbers; null where none is known.

    Laws are `normal`, `embedding`, `choice(n)`, `range(low,high)`, `tokens(length)`, `photo` and `hole`; see
    `signature.laws`.
    """

    law: str | None
    parameters: dict[str, bool | int | float | tuple[tuple[int, ...], ...]]

    @property
    def tensor(self) -> Input:
        """What was recorded."""
        law = None if self.law is None else law_named(self.law, self.parameters)
        return Input(self.name, self.shape, self.dtype, law, self.layout, self.meaning)


class SignatureRecord(Record):
    """Inputs in the graph's order, and its one output."""

    inputs: tuple[InputRecord, ...]
    output: OutputRecord

    @classmethod
    def of(cls, signature: Signature) -> Self:
        """What is recorded of a border."""
        return cls(inputs=tuple(map(InputRecord.of, signature.inputs)), output=OutputRecord.of(signature.output))

    @property
    def signature(self) -> Signature:
        """What was recorded."""
        return Signature(tuple(i.tensor for i in self.inputs), self.output.tensor)


def _facts(tensor: Input | Output) -> dict[str, Any]:
    if len(tensor.layout) != len(tensor.shape) or tensor.layout.count("N") > 1:
        raise ValueError(f"shape {tensor.shape} and layout {tensor.layout} don't agree")
    facts = {k: getattr(tensor, k) for k in ("name", "dtype", "shape", "layout", "meaning")}
    facts["batch_axis"] = tensor.layout.index("N") if "N" in tensor.layout else None
    if isinstance(tensor, Output):
        if tensor.columns and len(tensor.columns) != tensor.shape[-1]:
            raise ValueError(f"shape {tensor.shape} has no {len(tensor.columns)} columns")
        return facts | {"range": tensor.range, "columns": tensor.columns}
    law = tensor.law
    if law is None or not law.recorded:
        return facts | {"range": None, "law": None, "parameters": {}}
    if not law.fits(tensor.picture_shape):
        raise ValueError(f"shape {tensor.shape} is none of {law}")
    # What says nothing stays away: readers of older manifests know no such name.
    parameters = {k: v for k, v in vars(law).items() if v is not None and v is not False and v != ()}
    return facts | {"range": law.range, "law": law.text(tensor.picture_shape), "parameters": parameters}
