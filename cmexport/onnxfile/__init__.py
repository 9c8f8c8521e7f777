"""ONNX as a file format: translation, precision, writing and running; for every target that speaks it."""
