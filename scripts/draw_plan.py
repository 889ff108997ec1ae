"""Draw a plan as a picture: ``dynunet-bundle draw-plan`` in a checkout."""

from dynunet_bundle.commands.main import run_script

if __name__ == "__main__":
    run_script("draw-plan")
