"""TorchScript, ONNX and TensorRT, each compared with the weights."""
