"""Write a small synthetic data set, to try the other commands: ``dynunet-bundle phantom`` in a checkout."""

from dynunet_bundle.commands.main import run_script

if __name__ == "__main__":
    run_script("phantom")
