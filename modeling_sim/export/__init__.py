"""Encoders for programs without this package: ONNX for onnxruntime and the like, `torch.export` for PyTorch."""
