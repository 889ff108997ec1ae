"""Folds in turn: train, predict what is held out, sum up; on one machine or by SLURM."""
