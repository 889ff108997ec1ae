"""Ignite handlers for training: checkpoints, gradient clipping, progress."""
