"""Processes, cores, memory and numerics of a training."""
