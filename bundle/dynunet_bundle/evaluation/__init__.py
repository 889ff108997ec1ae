"""Scores of masks: measures in native space, their statistics and tables."""
