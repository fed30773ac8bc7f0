"""Networks for other runtimes: written as ONNX files, and run by ONNX Runtime."""
