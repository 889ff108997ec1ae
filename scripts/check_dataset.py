"""Report all problems of a data set: ``dynunet-bundle check`` in a checkout."""

from dynunet_bundle.commands.main import run_script

if __name__ == "__main__":
    run_script("check")
