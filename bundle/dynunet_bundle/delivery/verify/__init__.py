"""Checks of a finished package, one file a check."""
