"""Invertible MONAI dictionary transforms, and the store of prepared cases."""
