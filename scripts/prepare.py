"""Prepare all cases of a data set; training does it as well: ``dynunet-bundle prepare`` in a checkout."""

from dynunet_bundle.commands.main import run_script

if __name__ == "__main__":
    run_script("prepare")
