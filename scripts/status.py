"""Show the state of trainings: ``dynunet-bundle status`` in a checkout."""

from dynunet_bundle.commands.main import run_script

if __name__ == "__main__":
    run_script("status")
