"""Find the best configuration and its rules for components: ``dynunet-bundle find-best`` in a checkout."""

from dynunet_bundle.commands.main import run_script

if __name__ == "__main__":
    run_script("find-best")
