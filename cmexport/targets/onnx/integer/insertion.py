"""8-bit layers as integer products in place of nodes of a captured graph."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, fx

from cmexport.graph.fxtools import Editor, argument, aten, is_op, is_view, shape_of
from cmexport.quantize.codes import LayerCodes
from cmexport.quantize.insertion import corrected_bias
from cmexport.targets.onnx.integer import operators as operators  # registers the operators
from cmexport.targets.onnx.integer.counting import counted
from cmexport.targets.onnx.pairs.handing_on import handed_codes

INTEGER = torch.ops.cmexport
UPSAMPLE = aten.upsample_nearest2d.vec


def insert_integer_layer(
    editor: Editor, node: fx.Node, codes: LayerCodes, by_node: Mapping[str, LayerCodes]
) -> fx.Node:
    """The node that computes what `node` does with `codes`, inserted before it.

    Args:
        editor: of the module.
        node: of `codes`' layer.
        codes: without output codes.
        by_node: of every node that is to compute in 8 bits.
    """
    match codes.layer.operator.kind:
        case "conv":
            return _convolution(editor, node, codes)
        case "attention":
            return _attention(editor, node, codes, by_node)
        case _:
            return _linear(editor, node, codes, by_node)


def _convolution(editor: Editor, node: fx.Node, codes: LayerCodes) -> fx.Node:
    source, factor = node.args[0], 1
    assert isinstance(source, fx.Node)
    handed = handed_codes(source)
    if handed is not None:
        source = handed
    if is_op(source, UPSAMPLE) and _doubles(source):
        source, factor = source.args[0], 2
        assert isinstance(source, fx.Node)
    kernel = codes.codes.shape[2:]
    stride = argument(node, 3, "stride", [1, 1])
    padding = argument(node, 4, "padding", [0, 0])
    height, width = shape_of(source)[2:]
    index = patch_index((height, width), factor, tuple(kernel), tuple(stride), tuple(padding)).int()  # type: ignore[arg-type]
    key = codes.layer.key
    result: fx.Node = editor.call(
        node,
        INTEGER.integer_convolution.default,
        source,
        editor.constant(node, codes.step, key=("step", key)) if handed is None else None,
        editor.constant(node, codes.zero_point.to(torch.uint8), key=("zero point", key)),
        editor.constant(node, index, key=("index", height, width, factor, kernel, str(stride), str(padding))),
        editor.constant(node, codes.codes.permute(2, 3, 1, 0).flatten(0, 2), key=("matrix", key)),
        editor.constant(node, codes.weight_step, key=("weight step", key)),
        editor.constant(node, _bias(editor, node, codes)),
        list(shape_of(node)[2:]),
    )
    return result


def _doubles(node: fx.Node) -> bool:
    source = node.args[0]
    assert isinstance(source, fx.Node)
    return [2 * d for d in shape_of(source)[2:]] == list(shape_of(node)[2:])


def patch_index(
    size: tuple[int, int], factor: int, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """Which input position each kernel element meets at each output position, (P k,) int64; H W for outside.

    `factor` is that of nearest upsampling before the convolution, of which `size` is the input's.
    """
    height, width = size
    places = torch.arange(height * width).reshape(1, 1, height, width) + 1
    large = places.repeat_interleave(factor, 2).repeat_interleave(factor, 3).double()
    columns = torch.nn.functional.unfold(large, kernel, padding=padding, stride=stride)[0]
    outside = height * width
    return torch.where(columns == 0, outside, columns.long() - 1).t().reshape(-1)


def _attention(editor: Editor, node: fx.Node, codes: LayerCodes, by_node: Mapping[str, LayerCodes]) -> fx.Node:
    """Where a layer that alone reads the result takes codes too, values leave in its steps.

    Softmax rows sum to one, so scaling and shifting the values scales and shifts the result: exact, and free.
    """
    reader = _only_linear(node, by_node)
    heads = argument(node, 3, "heads")
    assert isinstance(heads, int)
    channels = codes.layer.weight.shape[0] // 3
    step, bias = codes.weight_step.clone(), _bias(editor, node, codes)
    # QAttention divides by sqrt(head width) itself, which the graph has folded into the queries.
    width = channels // heads
    step[:channels] *= width**0.5
    bias[:channels] *= width**0.5
    if reader is not None:
        step[2 * channels :] /= reader.step
        bias[2 * channels :] = bias[2 * channels :] / reader.step + reader.zero_point
    key, source = codes.layer.key, node.args[0]
    assert isinstance(source, fx.Node)
    # Tokens of a picture are transposed anyway, and rounded before they are.
    rows = is_view(source)
    result: fx.Node = editor.call(
        node,
        INTEGER.integer_attention.default,
        source if rows else counted(editor, node, source, codes, by_node),
        editor.constant(node, codes.step, key=("step", key)) if rows else None,
        editor.constant(node, codes.zero_point.to(torch.uint8), key=("zero point", key)) if rows else None,
        editor.constant(node, codes.codes.t(), key=("matrix", key)),
        editor.constant(node, step),
        editor.constant(node, bias),
        heads,
    )
    return result


def _only_linear(node: fx.Node, by_node: Mapping[str, LayerCodes]) -> LayerCodes | None:
    """The 8-bit linear layer that alone reads an 8-bit attention's result."""
    users = list(node.users)
    if len(users) != 1 or users[0].name not in by_node or not is_op(users[0], aten.linear.default):
        return None
    return by_node[users[0].name]


def _linear(editor: Editor, node: fx.Node, codes: LayerCodes, by_node: Mapping[str, LayerCodes]) -> fx.Node:
    source = node.args[0]
    assert isinstance(source, fx.Node)
    key = codes.layer.key
    # Attention layers were replaced before the linear layers that read them.
    if not is_op(source, INTEGER.integer_attention.default) or len(source.users) != 1:
        source = counted(editor, node, source, codes, by_node)
    result: fx.Node = editor.call(
        node,
        INTEGER.integer_linear.default,
        source,
        editor.constant(node, codes.codes.t(), key=("matrix", key)),
        editor.constant(node, codes.weight_step, key=("weight step", key)),
        editor.constant(node, _bias(editor, node, codes)),
    )
    return result


def _bias(editor: Editor, node: fx.Node, codes: LayerCodes) -> Tensor:
    """Bias (O,) float32 with its correction, less what the zero points bring in."""
    spread = codes.layer.spread(codes.zero_point).expand_as(codes.codes)
    offset = (codes.codes.double() * spread.double()).flatten(1).sum(dim=1) * codes.weight_step.double()
    return (corrected_bias(editor, node, codes) - offset).float()
