"""Write a page with pictures of masks, their flags and scores: ``dynunet-bundle report`` in a checkout."""

from dynunet_bundle.commands.main import run_script

if __name__ == "__main__":
    run_script("report")
