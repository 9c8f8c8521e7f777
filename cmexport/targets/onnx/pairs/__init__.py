"""int8 as quantize/dequantize pairs in plain ONNX, for every runtime that recognizes them.

ONNX Runtime makes a QLinearConv of each convolution between pairs. Steps per channel survive although such a kernel has
one step for its input and one for its output: a pair need not have the same steps on both of its sides. Input codes are
made with a step per channel and read with the step 1, the weight's codes holding the rest; output codes are made with
the step 1 from a convolution that divides by its steps, and read with a step per channel. On the demo model that is
worth 12 dB (43.3 to 55.1) and costs nothing.
"""
