"""ONNX: networks written as ONNX files, and run by ONNX Runtime."""
