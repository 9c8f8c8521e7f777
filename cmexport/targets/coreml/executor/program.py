"""What a saved ML Program is, once it has been read: plain data, nothing executed and nothing inferred."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from cmexport.targets.coreml.executor.blobs import BlobFile

UNKNOWN = -1
"""A dimension that is only known when the program runs."""


@dataclass(frozen=True)
class TensorType:
    """Element type and shape of one value.

    Attributes:
        dtype: "bool", "string", "float16", "float32", "float64", "bfloat16", "int4" … "int64" or "uint1" … "uint64".
        shape: extents; `UNKNOWN` where the program doesn't say. Scalars are ().
    """

    dtype: str
    shape: tuple[int, ...]

    @property
    def is_dynamic(self) -> bool:
        """Whether an extent is unknown until the program runs."""
        return UNKNOWN in self.shape

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join('?' if d == UNKNOWN else str(d) for d in self.shape)}]"


@dataclass(frozen=True)
class Reference:
    """The value of that name: an input of the function or an output of an earlier operation."""

    name: str


@dataclass(frozen=True, eq=False)
class Immediate:
    """A value written into the program itself.

    Attributes:
        type: its declared type.
        data: numbers in the declared shape (sub-byte types one element per byte), or strings, flat.
    """

    type: TensorType
    data: npt.NDArray[np.generic] | tuple[str, ...]


@dataclass(frozen=True)
class Stored:
    """A value in a weights file.

    Attributes:
        type: its declared type.
        file: where it is.
        offset: position of its 64 bytes of metadata, in bytes from the beginning of the file.
        nbytes: bytes of its data in the file.
    """

    type: TensorType
    file: BlobFile
    offset: int
    nbytes: int


Constant: TypeAlias = Immediate | Stored
Binding: TypeAlias = Reference | Immediate | Stored


@dataclass(frozen=True)
class Output:
    """One named result of an operation."""

    name: str
    type: TensorType


@dataclass(frozen=True, eq=False)
class MilOp:
    """One operation.

    Attributes:
        type: "conv", "softmax", …
        name: the operation's own name, used in messages.
        inputs: bindings by parameter; variadic parameters (`values` of concat) have several.
        outputs: results in order.
        attributes: constant parameters; iOS 16's constexpr operations keep theirs here, not among the inputs.
    """

    type: str
    name: str
    inputs: Mapping[str, tuple[Binding, ...]]
    outputs: tuple[Output, ...]
    attributes: Mapping[str, Constant]

    @property
    def is_constant(self) -> bool:
        """Whether it is evaluated when the program is loaded: `const` and every `constexpr_*`."""
        return self.type == "const" or self.type.startswith("constexpr_")

    @property
    def where(self) -> str:
        """How messages name it, e.g. "operation 'conv' (at 'decoder_conv_3')"."""
        return f"operation '{self.type}' (at '{self.name}')"


@dataclass(frozen=True, eq=False)
class MilFunction:
    """One entry point.

    Attributes:
        name: "main" unless the package has several.
        inputs: parameters in order.
        outputs: names of the values it returns.
        ops: operations, each after everything it uses.
        opset: "CoreML5" (iOS 15) … "CoreML8" (iOS 18).
    """

    name: str
    inputs: tuple[Output, ...]
    outputs: tuple[str, ...]
    ops: tuple[MilOp, ...]
    opset: str


@dataclass(frozen=True, eq=False)
class MilProgram:
    """A package's program.

    Attributes:
        path: the .mlpackage.
        functions: entry points by name.
        default_function: the one that runs when none is named.
        specification_version: 6 (iOS 15) … 9 (iOS 18).
        metadata: the user-defined strings, e.g. provenance.
        image_inputs: inputs that an app passes as pictures, not as arrays.
        image_outputs: outputs that an app receives as pictures. The program itself computes a float (1, C, H, W) in
            0 … 255; Core ML makes the picture from it.
    """

    path: Path
    functions: Mapping[str, MilFunction]
    default_function: str
    specification_version: int
    metadata: Mapping[str, str] = field(default_factory=dict)
    image_inputs: frozenset[str] = frozenset()
    image_outputs: frozenset[str] = frozenset()
