"""Analyse a data set and write its task overlay: ``dynunet-bundle plan`` in a checkout."""

from dynunet_bundle.commands.main import run_script

if __name__ == "__main__":
    run_script("plan")
