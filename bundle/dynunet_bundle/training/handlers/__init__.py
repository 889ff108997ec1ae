"""Handlers that train.json attaches to the trainer; those that report progress are in ``watching``."""
