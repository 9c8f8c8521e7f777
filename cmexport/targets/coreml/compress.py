"""Store rounded weights as integers or palettes: a pass over the converted program.

`quantize` has rounded the weights already, in the graph that was converted. Here each one that has few enough distinct
values is written as codes and scales, or as indices and a table, which give back the very same half-precision numbers:
nothing is rounded twice, and no weight has to be traced from one graph to the other by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from cmexport.targets.coreml.library import coremltools

PASS = "cmexport::store_compressed"

BITS_BEFORE_18 = (1, 2, 4, 6, 8)
BITS = (1, 2, 3, 4, 6, 8)
"""Widths of palette indices that Core ML has: three bits came with iOS 18."""
_LEAST_ELEMENTS = 512
_LEVELS = 127


@dataclass(frozen=True, eq=False)
class LinearCodes:
    """weight = codes * scale, with int8 codes (channels_out, ...) and a half-precision scale per output channel."""

    codes: npt.NDArray[np.int8]
    scale: npt.NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class PaletteCodes:
    """weight = table[indices]; the table has 2^bits entries."""

    indices: npt.NDArray[np.uint8]
    table: npt.NDArray[np.floating]
    bits: int


def encode(weight: npt.NDArray[np.floating], widths: Sequence[int] = BITS) -> LinearCodes | PaletteCodes | None:
    """The exact codes of a rounded weight (channels_out, ...), in the fewest bits; None if it has too many values."""
    table, indices = _indexed(weight)
    if len(table) <= 2 ** widths[-1]:
        bits = next(b for b in widths if len(table) <= 2**b)
        filled = np.concatenate([table, np.repeat(table[-1:], 2**bits - len(table))])
        return PaletteCodes(indices().astype(np.uint8), filled, bits)
    return _linear(weight)


def _indexed(
    weight: npt.NDArray[np.floating],
) -> tuple[npt.NDArray[np.floating], Callable[[], npt.NDArray[np.integer]]]:
    """The distinct numbers of a weight, ascending, and what gives the place of each element among them."""
    if weight.dtype != np.float16:
        wide = np.unique(weight)
        return wide, lambda: np.searchsorted(wide, weight)
    # Half precision has 65,536 numbers: counting takes a twentieth of the time of sorting, 100 s for Stable Diffusion.
    # (numpy 2.3.5 sorts large half-precision arrays wrongly on AVX-512 machines besides.)
    codes = weight.view(np.uint16)
    used = np.flatnonzero(np.bincount(codes.ravel(), minlength=2**16)).astype(np.uint16)
    numbers = used.view(np.float16).astype(np.float32)
    table = np.unique(numbers)
    places = np.zeros(2**16, dtype=np.uint16)
    places[used] = np.searchsorted(table, numbers)
    return table.astype(np.float16), lambda: places[codes]


def _linear(weight: npt.NDArray[np.floating]) -> LinearCodes | None:
    rows = weight.reshape(weight.shape[0], -1)
    # As `quantize.rounding` chose it: no smaller than the smallest normal half-precision number.
    near = np.maximum((np.abs(rows).max(axis=1) / np.float32(_LEVELS)).astype(np.float16), np.finfo(np.float16).tiny)
    # The largest weight is 127 scales, rounded: where its 127th part lies between two numbers, either may be the scale.
    scale = np.zeros_like(near)
    codes = np.zeros(rows.shape, dtype=np.int8)
    left = np.arange(len(rows))
    for guess in (near, np.nextafter(near, np.float16(0)), np.nextafter(near, np.float16(np.inf))):
        wide = guess[left].astype(np.float32)[:, None]
        found = np.clip(np.rint(rows[left].astype(np.float32) / wide), -_LEVELS, _LEVELS)
        # Products as the weight's own type holds them: what Core ML is to read back.
        exact = ((found * wide).astype(weight.dtype) == rows[left]).all(axis=1)
        scale[left[exact]], codes[left[exact]] = guess[left[exact]], found[exact].astype(np.int8)
        left = left[~exact]
    if len(left):
        return None
    column = (weight.shape[0], *[1] * (weight.ndim - 1))
    return LinearCodes(codes.reshape(weight.shape), scale.astype(weight.dtype).reshape(column))


@cache
def register() -> str:
    """Make the pass known to coremltools; its name, for `PassPipeline.append_pass`."""
    coremltools()
    base = import_module("coremltools.converters.mil.mil.passes.graph_pass").AbstractGraphPass
    registry = import_module("coremltools.converters.mil.mil.passes.pass_registry")
    namespace, name = PASS.split("::")
    # coremltools takes a class and calls it by the class's name.
    registry.register_pass(namespace=namespace)(type(name, (base,), {"apply": _apply, "__doc__": __doc__}))
    return PASS


def _apply(_pass: Any, program: Any) -> None:
    """Replace what can be, in every function."""
    for function in program.functions.values():
        with function:
            for operation in list(_weights(function)):
                _replace(operation)


def _weights(block: Any) -> Iterator[Any]:
    """Constants that are a convolution's or linear layer's weight, each once."""
    seen = set()
    for operation in block.operations:
        weight = operation.inputs.get("weight") if operation.op_type in ("conv", "linear") else None
        if weight is None or weight.op is None or weight.op.op_type != "const" or id(weight.op) in seen:
            continue
        seen.add(id(weight.op))
        if weight.val is not None and weight.val.size >= _LEAST_ELEMENTS:
            yield weight.op


def _replace(constant: Any) -> None:
    variable = constant.outputs[0]
    encoded = encode(variable.val, BITS if _has_blocks() else BITS_BEFORE_18)
    if encoded is None:
        return
    compressed = _operation(constant, encoded)
    block = constant.enclosing_block
    block.replace_uses_of_var_after_op(
        anchor_op=constant, old_var=variable, new_var=compressed, no_check_var_types=True
    )
    block.remove_ops([constant])


def _operation(constant: Any, encoded: LinearCodes | PaletteCodes) -> Any:
    """The `constexpr` operation of the program's iOS version; before iOS 18 they have other names and layouts."""
    builder = import_module("coremltools.converters.mil.mil").Builder
    place = {"before_op": constant, "name": f"{constant.name}_stored"}
    if isinstance(encoded, PaletteCodes):
        types = import_module("coremltools.converters.mil.mil.types").type_mapping
        indices = encoded.indices.astype(types.string_to_nptype(f"uint{encoded.bits}"))
        table = encoded.table.reshape(*[1] * indices.ndim, -1, 1)
        build = import_module("coremltools.converters.mil.frontend._utils")._construct_constexpr_lut_op
        return build(indices, table, None, **place)
    if _has_blocks():
        return builder.constexpr_blockwise_shift_scale(data=encoded.codes, scale=encoded.scale, **place)
    return builder.constexpr_affine_dequantize(
        quantized_data=encoded.codes, zero_point=np.int8(0), scale=encoded.scale.reshape(-1), axis=np.int32(0), **place
    )


def _has_blocks() -> bool:
    """Whether the program being edited is for iOS 18 or later; only known inside a function's context."""
    block = import_module("coremltools.converters.mil.mil.block")
    return bool(block.is_current_opset_version_compatible_with(coremltools().target.iOS18))
