"""Exports encoders for use without this package: ONNX, for example for onnxruntime, and `torch.export` for PyTorch."""
