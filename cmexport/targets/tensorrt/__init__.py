"""TensorRT: typed ONNX, and engines for TensorRT for RTX, TensorRT 10 and TensorRT 11."""
