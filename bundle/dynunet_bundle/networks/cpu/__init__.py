"""Layers and a forward pass of DynUNet that are faster on a CPU and use less memory."""
