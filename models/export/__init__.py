"""ONNX files of a model, for runtimes other than torch."""
