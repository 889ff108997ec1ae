"""Invertible MONAI dictionary transforms, and the store of cases that they prepared."""
