"""What a Python program uses: ``from dynunet_bundle import Predictor, plan, prepare, evaluate`` (docs/python.md)."""
