"""Fetch a data set of the Medical Segmentation Decathlon: ``dynunet-bundle download`` in a checkout."""

from dynunet_bundle.commands.main import run_script

if __name__ == "__main__":
    run_script("download")
