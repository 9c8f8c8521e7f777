"""Read a saved `.mlpackage` as it lies on disk.

Only protobuf's own classes are used: coremltools' loader would infer types anew and rewrite the program on the way, and
what runs here must be what ships. Nothing in a package is trusted; whatever is wrong with one ends in one sentence.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from cmexport.errors import CheckpointError
from cmexport.targets.coreml.executor.blobs import BITS, BlobFile
from cmexport.targets.coreml.executor.ops import KNOWN_OPERATIONS
from cmexport.targets.coreml.executor.package import model_file
from cmexport.targets.coreml.executor.program import (
    UNKNOWN,
    Binding,
    Constant,
    Immediate,
    MilFunction,
    MilOp,
    MilProgram,
    Output,
    Reference,
    Stored,
    TensorType,
)
from cmexport.targets.coreml.executor.values import Malformed, immediate
from cmexport.targets.coreml.library import specification

MODEL_PATH = "@model_path/"
"""Weights files are named relative to the folder of `model.mlmodel`."""

LARGEST_TENSOR_BYTES = 2**32
"""No value of a sane program is larger; a damaged shape would ask for terabytes."""

_NUMBERED = {
    1: "bool",
    2: "string",
    10: "float16",
    11: "float32",
    12: "float64",
    13: "bfloat16",
    21: "int8",
    22: "int16",
    23: "int32",
    24: "int64",
    25: "int4",
    31: "uint8",
    32: "uint16",
    33: "uint32",
    34: "uint64",
    35: "uint4",
    36: "uint2",
    37: "uint1",
    38: "uint6",
    39: "uint3",
}
"""`MILSpec.DataType`."""


def read_program(package: Path) -> MilProgram:
    """The program in a package.

    Raises:
        CheckpointError: it isn't an .mlpackage with an ML Program, it is damaged, or it uses operations that the
            executor doesn't know.
        BackendError: coremltools isn't installed.
    """
    model_pb2, decode_error = specification()
    path = model_file(package)
    model = model_pb2.Model()
    try:
        model.ParseFromString(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read ({error.strerror}); copy the whole package again") from error
    except decode_error as error:
        raise CheckpointError(f"{path}: the specification is damaged; copy the whole package again") from error
    kind = model.WhichOneof("Type")
    if kind != "mlProgram":
        raise CheckpointError(
            f"{package}: this is a Core ML model of kind {kind or 'none'}, not an ML Program; convert it with "
            "convert_to='mlprogram'"
        )
    try:
        return _Reader(package, path).program(model)
    except Malformed as error:
        raise CheckpointError(f"{package}: {error}; copy or convert the package again") from error


class _Reader:
    """Turns protobuf messages of one package into plain data."""

    def __init__(self, package: Path, model: Path) -> None:
        self._package = package
        self._folder = model.parent
        self._files: dict[str, BlobFile] = {}

    def program(self, model: Any) -> MilProgram:
        functions = {name: self._function(name, spec) for name, spec in sorted(model.mlProgram.functions.items())}
        if not functions:
            raise Malformed("the program has no functions")
        self._refuse_unknown(functions)
        description = model.description
        default = description.defaultFunctionName or "main"
        if default not in functions:
            if len(functions) > 1:
                raise Malformed(f"its default function '{default}' is not among {', '.join(functions)}")
            default = next(iter(functions))
        described = [description, *description.functions]
        return MilProgram(
            path=self._package,
            functions=functions,
            default_function=default,
            specification_version=model.specificationVersion,
            metadata=dict(description.metadata.userDefined),
            image_inputs=frozenset(_images(f for d in described for f in d.input)),
            image_outputs=frozenset(_images(f for d in described for f in d.output)),
        )

    def _refuse_unknown(self, functions: Mapping[str, MilFunction]) -> None:
        unknown = {op.type: op for f in functions.values() for op in reversed(f.ops) if op.type not in KNOWN_OPERATIONS}
        if unknown:
            listed = ", ".join(f"'{kind}' (at '{op.name}')" for kind, op in sorted(unknown.items()))
            raise CheckpointError(
                f"{self._package}: operation{'s' if len(unknown) > 1 else ''} {listed} "
                f"{'are not among those' if len(unknown) > 1 else 'is not one'} this executor knows; check this model "
                "on a Mac"
            )

    def _function(self, name: str, spec: Any) -> MilFunction:
        where = f"function '{name}'"
        if spec.opset not in spec.block_specializations:
            raise Malformed(f"{where} has no body for its opset '{spec.opset}'")
        block = spec.block_specializations[spec.opset]
        inputs = tuple(Output(i.name, self._type(i.type, f"input '{i.name}'")) for i in spec.inputs)
        defined: set[str] = set()
        for value in inputs:
            self._define(value.name, defined, where)
        ops = tuple(self._operation(op, defined) for op in block.operations)
        if not block.outputs:
            raise Malformed(f"{where} returns nothing")
        for output in block.outputs:
            if output not in defined:
                raise Malformed(f"{where} returns '{output}', which nothing defines")
        return MilFunction(name, inputs, tuple(block.outputs), ops, spec.opset)

    @staticmethod
    def _define(name: str, defined: set[str], where: str) -> None:
        if name in defined or not name:
            raise Malformed(f"{where} defines '{name}' a second time" if name else f"{where} defines a nameless value")
        defined.add(name)

    def _operation(self, spec: Any, defined: set[str]) -> MilOp:
        attributes = {key: self._constant(value, f"'{spec.type}'") for key, value in sorted(spec.attributes.items())}
        label = attributes.get("name")
        name = spec.outputs[0].name if spec.outputs else "?"
        if isinstance(label, Immediate) and isinstance(label.data, tuple) and label.data:
            name = label.data[0]
        where = f"operation '{spec.type}' (at '{name}')"
        inputs = {
            parameter: tuple(self._binding(binding, defined, where) for binding in argument.arguments)
            for parameter, argument in sorted(spec.inputs.items())
        }
        outputs = tuple(Output(o.name, self._type(o.type, where)) for o in spec.outputs)
        for output in outputs:
            self._define(output.name, defined, where)
        return MilOp(spec.type, name, inputs, outputs, attributes)

    def _binding(self, spec: Any, defined: set[str], where: str) -> Binding:
        kind = spec.WhichOneof("binding")
        if kind == "value":
            return self._constant(spec.value, where)
        if kind != "name":
            raise Malformed(f"{where} has an argument without a value")
        if spec.name not in defined:
            raise Malformed(f"{where} uses '{spec.name}', which nothing before it defines")
        return Reference(spec.name)

    def _constant(self, value: Any, where: str) -> Constant:
        kind = self._type(value.type, where)
        source = value.WhichOneof("value")
        if source == "immediateValue":
            return immediate(value.immediateValue, kind, where)
        if source != "blobFileValue":
            raise Malformed(f"{where} has a constant without a value")
        if kind.is_dynamic or kind.dtype not in BITS:
            raise Malformed(f"{where} reads a value of type {kind} from a file")
        file = self._file(value.blobFileValue.fileName)
        offset = value.blobFileValue.offset
        return Stored(kind, file, offset, file.check(offset, kind.dtype, math.prod(kind.shape)))

    def _file(self, name: str) -> BlobFile:
        if name not in self._files:
            relative = PurePosixPath(name.removeprefix(MODEL_PATH))
            if not name.startswith(MODEL_PATH) or relative.is_absolute() or ".." in relative.parts or "\0" in name:
                raise Malformed(f"its program names a weights file outside the package: {name!r}")
            path = self._folder / relative
            if not path.resolve().is_relative_to(self._package.resolve()):
                raise Malformed(f"its program names a weights file outside the package: {name!r}")
            self._files[name] = BlobFile.open(path)
        return self._files[name]

    def _type(self, spec: Any, where: str) -> TensorType:
        kind = spec.WhichOneof("type")
        if kind == "listType":
            element = self._type(spec.listType.type, where)
            return TensorType(element.dtype, (_extent(spec.listType.length, where), *element.shape))
        if kind != "tensorType":
            what = {"stateType": "a state", "tupleType": "a tuple", "dictionaryType": "a dictionary"}
            raise Malformed(f"{where} has {what.get(kind, 'no type')}, which this executor can't hold")
        tensor = spec.tensorType
        if tensor.dataType not in _NUMBERED:
            raise Malformed(f"{where} has elements of unknown type {tensor.dataType}")
        dtype = _NUMBERED[tensor.dataType]
        if tensor.rank != len(tensor.dimensions):
            raise Malformed(f"{where} has {len(tensor.dimensions)} extents and rank {tensor.rank}")
        shape = tuple(_extent(d, where) for d in tensor.dimensions)
        elements = math.prod(d for d in shape if d != UNKNOWN)
        if elements * BITS.get(dtype, 8) > LARGEST_TENSOR_BYTES * 8:
            raise Malformed(f"{where} has a value of impossible size {list(shape)}")
        return TensorType(dtype, shape)


def _extent(dimension: Any, where: str) -> int:
    kind = dimension.WhichOneof("dimension")
    if kind == "constant":
        return int(dimension.constant.size)
    if kind == "unknown" and not dimension.unknown.variadic:
        return UNKNOWN
    raise Malformed(f"{where} has a value of unknown rank")


def _images(features: Iterator[Any]) -> Iterator[str]:
    for feature in features:
        if feature.type.WhichOneof("Type") == "imageType":
            yield feature.name
