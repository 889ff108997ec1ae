"""Layers and a forward pass of DynUNet that cost less on a CPU."""
