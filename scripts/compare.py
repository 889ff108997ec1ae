"""Compare two evaluations case by case: ``dynunet-bundle compare`` in a checkout."""

from dynunet_bundle.commands.main import run_script

if __name__ == "__main__":
    run_script("compare")
