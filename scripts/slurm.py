"""Print an sbatch script for a training: ``dynunet-bundle slurm`` in a checkout."""

from dynunet_bundle.commands.main import run_script

if __name__ == "__main__":
    run_script("slurm")
