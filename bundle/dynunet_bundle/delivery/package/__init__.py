"""Package a trained model as a separate bundle."""
