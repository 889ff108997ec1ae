"""Deliver a trained model: exported formats, a bundle package, and checks of that package."""
