"""Graphs from torch and from ONNX."""
