"""A bundle of its own made from a trained model."""
