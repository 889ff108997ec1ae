"""Scores of predicted masks in native space, and the table they are shown in."""
