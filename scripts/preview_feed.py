"""Draw training patches as a picture: ``dynunet-bundle preview`` in a checkout."""

from dynunet_bundle.commands.main import run_script

if __name__ == "__main__":
    run_script("preview")
