"""Masks to numbers: measures in native space, their statistics and tables."""
