"""Train one model or the folds of a cross-validation: ``dynunet-bundle train`` in a checkout."""

from dynunet_bundle.commands.main import run_script

if __name__ == "__main__":
    run_script("train")
