"""Every operation the executor knows, one function each, one file per family as in coremltools' own definitions."""

from cmexport.targets.coreml.executor.ops import (
    activation,
    attention,
    constexpr,
    control,
    convolution,
    elementwise,
    linear,
    normalization,
    pooling,
    quantization,
    reduction,
    resize,
    scatter_gather,
    tensor_operation,
    tensor_transformation,
)
from cmexport.targets.coreml.executor.ops.calling import OpFunction

OPS: dict[str, OpFunction] = {
    **activation.OPERATIONS,
    **attention.OPERATIONS,
    **constexpr.OPERATIONS,
    **control.OPERATIONS,
    **convolution.OPERATIONS,
    **elementwise.OPERATIONS,
    **linear.OPERATIONS,
    **normalization.OPERATIONS,
    **pooling.OPERATIONS,
    **quantization.OPERATIONS,
    **reduction.OPERATIONS,
    **resize.OPERATIONS,
    **scatter_gather.OPERATIONS,
    **tensor_operation.OPERATIONS,
    **tensor_transformation.OPERATIONS,
}
"""Implementations by MIL operation type."""

KNOWN_OPERATIONS = frozenset(OPS) | {"const"}
"""What a program may consist of; a constant needs no function."""
