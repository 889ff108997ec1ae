"""Score masks against reference masks: ``dynunet-bundle evaluate`` in a checkout."""

from dynunet_bundle.commands.main import run_script

if __name__ == "__main__":
    run_script("evaluate")
