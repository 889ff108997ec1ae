"""Average the probabilities of several models: ``dynunet-bundle ensemble`` in a checkout."""

from dynunet_bundle.commands.main import run_script

if __name__ == "__main__":
    run_script("ensemble")
