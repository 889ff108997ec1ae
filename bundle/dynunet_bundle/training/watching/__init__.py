"""Monitoring of a running training: log, status, curves, TensorBoard, MLflow."""
