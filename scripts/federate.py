"""Write a job of federated learning for NVFlare: ``dynunet-bundle federate`` in a checkout."""

import sys
from pathlib import Path

# the package of this checkout, also if it is not installed or if another one is
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bundle"))

from dynunet_bundle.commands.main import run_script  # noqa: E402

if __name__ == "__main__":
    run_script("federate")
