"""Process group, memory and numerics of a training."""
