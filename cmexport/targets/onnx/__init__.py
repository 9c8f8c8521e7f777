"""ONNX files for ONNX Runtime: lowering, half precision, what execution providers want, and the runner."""
