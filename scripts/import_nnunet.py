"""Make a package of a model that was trained with nnU-Net v2: ``dynunet-bundle import-nnunet`` in a checkout."""

from dynunet_bundle.commands.main import run_script

if __name__ == "__main__":
    run_script("import-nnunet")
