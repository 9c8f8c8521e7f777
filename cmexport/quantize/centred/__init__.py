"""int8 with one symmetric scale for an activation, and yet a step and a zero point for each of its channels.

The 8-bit kernels of TensorRT and Core ML read activations with one scale. What the plan holds per input channel is done
before, in half precision, as one multiplication and one addition: channel c becomes its codes less 128, which fill -128
to 127. Zero is then a code of its own in every channel, so a convolution can't pad with zeros any more: the input is
padded before. What the zero points bring in is the same everywhere then, and part of the bias.
"""
