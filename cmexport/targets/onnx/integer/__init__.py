"""int8 for ONNX Runtime's own CPU kernels: integer matrix products with float results, and nothing rounded twice.

A convolution becomes QuantizeLinear (one step per channel), a Gather that lays out its patches, and
MatMulIntegerToFloat. Against QLinearConv that saves the rounding of outputs and is faster for wide layers: 106 against
143 us for 16x16, 256 to 128 channels. Nearest upsampling before it is another index. Zero points are multiplied out
beforehand, into the bias.
"""
