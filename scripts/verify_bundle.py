"""Check that a bundle is ready for its clients: ``dynunet-bundle verify`` in a checkout."""

from dynunet_bundle.commands.main import run_script

if __name__ == "__main__":
    run_script("verify")
