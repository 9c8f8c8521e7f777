"""ONNX files for ONNX Runtime: lowering, half precision, execution-provider forms and the runner."""
