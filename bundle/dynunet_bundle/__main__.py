"""``python -m dynunet_bundle``, the same as ``dynunet-bundle``."""

from dynunet_bundle.commands.main import console

if __name__ == "__main__":
    console()
