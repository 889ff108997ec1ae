"""Package a model as a standalone MONAI bundle: ``dynunet-bundle package`` in a checkout."""

from dynunet_bundle.commands.main import run_script

if __name__ == "__main__":
    run_script("package")
