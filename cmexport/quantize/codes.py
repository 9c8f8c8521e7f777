"""A layer in 8 bits: codes of its weight, steps and zero points of its input and, where a runtime needs it, its output.

One step per input channel costs nothing at run time: the weight's elements for that channel are multiplied by the step
before they are rounded themselves, and whole numbers remain. On the demo model that is worth 8 dB.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cmexport.quantize.calibration import LayerStatistics
from cmexport.quantize.layers import Layer, Multiply
from cmexport.quantize.least_squares import round_by_least_squares

TOP = 127
"""Largest weight code: symmetric, -128 stays unused."""
LAST = 255
"""Largest activation code; zero points and codes are counted from 0."""
MIDDLE = 128
"""What signed spellings subtract from both."""
SMALLEST = 1e-12
TOKEN_MARGIN = 2.0
"""Of ranges of what attention hands on, which has no Gumbel tail. A softmax that settles on one token
for once gives values nobody has seen: 223 steps beyond the range in the demo model's worst of 1,500 pictures, which was
then 12 dB below the mean. Those layers alone are above 74 dB there, so coarser steps cost 0.2 dB in all. Layers that
read a norm have the tail: with this margin on them too a text-to-image model loses 2.5 dB."""


@dataclass(frozen=True)
class Scheme:
    """What a runtime's 8-bit kernels can hold.

    Attributes:
        per_channel: every input channel has a step of its own.
        own_zeros: every input channel has a zero point of its own; else one fits all, as convolutions that pad with it
            need.
        outputs: a layer's output is rounded to 8 bits as well, with steps and zero points per channel.
        last: largest code of an input, counted from 0.
    """

    per_channel: bool = True
    own_zeros: bool = True
    outputs: bool = False
    last: int = LAST


INTEGER_PRODUCTS = Scheme()
"""Integer matrix products with float results: ONNX Runtime's MatMulIntegerToFloat, and convolutions of TensorRT and
Core ML once the input is padded, then centred, before it is rounded."""
CONVOLUTIONS = Scheme(own_zeros=False, outputs=True)
"""QLinearConv, which ONNX Runtime makes of a convolution between Q/DQ pairs: codes in, codes out, one zero to pad with.
Steps per channel are in the pairs around it."""
PER_TENSOR = Scheme(per_channel=False, own_zeros=False)
"""One step for an activation: NPUs."""
PER_TENSOR_16_BITS = Scheme(per_channel=False, own_zeros=False, last=(1 << 16) - 1)
"""The same with activations in 16 bits: NPUs."""


@dataclass(frozen=True)
class RoundingOptions:
    """How layers are rounded; each has its measured gain in docs/quantization.md.

    Attributes:
        margin: ranges are widened by this factor: a value beyond them costs far more than a coarser step.
        balance: 1 gives every channel the finest step its range allows; below, channels with small weights get coarser
            ones and their weights finer codes, as SmoothQuant's alpha (Xiao et al. 2023, arXiv:2211.10438).
        least_squares: round weights so that outputs stay close, where calibration took products.
    """

    margin: float = 1.0
    balance: float = 1.0
    least_squares: bool = True


@dataclass(frozen=True, eq=False)
class OutputCodes:
    """How a layer's output is rounded: value = step (code - zero_point), both (O,); zero points are whole numbers.

    `reader` is the key of the layer that these are the input codes of, so that nothing is rounded twice; None: it has
    codes of its own.
    """

    step: Tensor
    zero_point: Tensor
    reader: str | None = None

    def rounded(self, layer: Layer, y: Tensor) -> Tensor:
        """The output as it is read back."""
        return _rounded(y, layer.along_output(self.step), layer.along_output(self.zero_point))


@dataclass(frozen=True, eq=False)
class LayerCodes:
    """One layer in 8 bits.

    The layer computes weight_step[o] * sum (input code - zero_point[c]) * codes[o, c, ...] + bias[o] in integers but
    for the last multiplication.

    Attributes:
        layer: which one.
        codes: its weight's shape, whole numbers from -127 to 127, int8.
        weight_step: (O,) float32.
        step: (C,) of the input, float32; value = step (code - zero_point).
        zero_point: (C,) whole numbers from 0 to `last`, float32; all equal where the scheme asks for it.
        output: None where the result stays in floating point.
        bias: (O,) to add to the layer's own bias, float32.
        last: largest input code.
    """

    layer: Layer
    codes: Tensor
    weight_step: Tensor
    step: Tensor
    zero_point: Tensor
    output: OutputCodes | None
    bias: Tensor
    last: int = LAST

    @property
    def weight(self) -> Tensor:
        """The weight that the codes stand for, in the layer's shape, float32."""
        rows = self.weight_step.reshape(-1, *(1,) * (self.codes.dim() - 1))
        return self.codes.float() * rows / self.layer.spread(self.step)

    def computed(self, x: Tensor, multiply: Multiply) -> Tensor:
        """The layer's output for an input `x`."""
        y = multiply(self.rounded_input(x), self.weight, self.bias)
        return y if self.output is None else self.output.rounded(self.layer, y)

    def rounded_input(self, x: Tensor) -> Tensor:
        """The input as it is read back."""
        return _rounded(x, self.layer.along(self.step), self.layer.along(self.zero_point), self.last)


def _rounded(x: Tensor, step: Tensor, zero: Tensor, last: int = LAST) -> Tensor:
    return ((x / step).round().add(zero).clamp(0, last) - zero) * step


def encode(layer: Layer, statistics: LayerStatistics, scheme: Scheme, options: RoundingOptions) -> LayerCodes:
    """Choose steps and zero points from the observed ranges, then round the weight.

    Shapes as in `LayerCodes`; the correction of the bias is left at 0.
    """
    margin = options.margin * (TOKEN_MARGIN if layer.attended else 1.0)
    low, high = (margin * limit for limit in statistics.input_range())
    if layer.rectified:
        low = torch.zeros_like(low)
    step, zero = _input_codes(layer, low, high, scheme, options.balance)
    matrix = layer.weight * layer.spread(step)
    rows = matrix.flatten(1)
    weight_step = (rows.abs().amax(dim=1) / TOP).clamp_min(SMALLEST)
    if options.least_squares and statistics.gram is not None:
        spread = layer.spread(step).expand_as(layer.weight[:1]).flatten()
        gram = statistics.gram / spread[:, None] / spread
        codes = round_by_least_squares(rows, gram, weight_step, TOP)
    else:
        codes = (rows / weight_step[:, None]).round().clamp(-TOP, TOP)
    output = None
    if scheme.outputs:
        output = OutputCodes(*_channel_codes(*statistics.output_range()))
    return LayerCodes(
        layer,
        codes.reshape(layer.weight.shape).to(torch.int8),
        weight_step,
        step,
        zero,
        output,
        torch.zeros(len(weight_step)),
        scheme.last,
    )


def _channel_codes(low: Tensor, high: Tensor, last: int = LAST) -> tuple[Tensor, Tensor]:
    """Step and zero point per channel, from ranges that include zero."""
    step = ((high - low) / last).clamp_min(SMALLEST)
    return step, (-low / step).round().clamp(0, last)


def _input_codes(layer: Layer, low: Tensor, high: Tensor, scheme: Scheme, balance: float) -> tuple[Tensor, Tensor]:
    if not scheme.per_channel:
        step, zero = _channel_codes(low.min().expand_as(low), high.max().expand_as(high), scheme.last)
        return step.contiguous(), zero.contiguous()
    reach = layer.weight.abs().transpose(0, 1).flatten(1).amax(dim=1).clamp_min(SMALLEST)
    if not scheme.own_zeros:
        return _common_zero(low, high, reach)
    span = (high - low).clamp_min(SMALLEST)
    shape = span**balance / reach ** (1 - balance)
    step = (shape * (span / shape).max() / LAST).clamp_min(SMALLEST)
    return step, (-low / step).round().clamp(0, LAST)


def _common_zero(low: Tensor, high: Tensor, reach: Tensor) -> tuple[Tensor, Tensor]:
    """The zero point that all channels share, where the steps it forces on them do the least harm.

    After SiLU every channel goes down to -0.28 and up to a maximum of its own: a zero point that suits most leaves the
    others a coarser step.
    """
    if not bool(low.any()):
        # Behind a ReLU. Padding is code 0 as well, and codes that stop there are the ReLU.
        return (high / LAST).clamp_min(SMALLEST), torch.zeros_like(low)
    # In float64, or the squares of steps below 1e-19 are all 0 and the worst zero point is as good as the best.
    zeros = torch.arange(1, LAST).reshape(-1, 1).double()
    steps = torch.maximum(high.double() / (LAST - zeros), -low.double() / zeros)
    best = int(((steps * reach) ** 2).sum(dim=1).argmin())
    return steps[best].float().clamp_min(SMALLEST), zeros[best].float().expand_as(low).contiguous()


def with_bias(codes: LayerCodes, bias: Tensor) -> LayerCodes:
    """The same codes with a correction (O,) to add to the bias."""
    return replace(codes, bias=bias)
