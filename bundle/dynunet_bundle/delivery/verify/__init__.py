"""Checks of a finished package."""
