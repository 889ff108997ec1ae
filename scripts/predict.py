"""Predict one mask per image: ``dynunet-bundle predict`` in a checkout."""

from dynunet_bundle.commands.main import run_script

if __name__ == "__main__":
    run_script("predict")
