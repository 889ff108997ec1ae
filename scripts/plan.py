"""Look at a data set and write its task overlay.

    python scripts/plan.py --dataset_dir DATA/Task09_Spleen
    python scripts/plan.py --dataset_dir DATA/Task09_Spleen --configuration 2d

The overlay goes to bundle/configs/tasks/ and is passed as a second config file to every command.
"""

import argparse
import logging
from pathlib import Path

from dynunet_bundle.errors import user_errors_exit

TASKS_DIR = Path(__file__).resolve().parents[1] / "bundle" / "configs" / "tasks"
SPATIAL_DIMS = {"3d_fullres": 3, "2d": 2}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset_dir", required=True, help="folder in MSD layout")
    parser.add_argument("--configuration", choices=sorted(SPATIAL_DIMS), default="3d_fullres")
    parser.add_argument("--out", type=Path, help="overlay to write (default: in configs/tasks)")
    parser.add_argument("--num_workers", type=int, default=4, help="threads that read cases")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    from dynunet_bundle.dataset import load_dataset  # noqa: PLC0415 - keeps --help fast
    from dynunet_bundle.files import ensure_writable, write_json  # noqa: PLC0415
    from dynunet_bundle.planning.fingerprint import extract  # noqa: PLC0415
    from dynunet_bundle.planning.planner import make_plan, summary  # noqa: PLC0415
    from dynunet_bundle.planning.presets import preset_for  # noqa: PLC0415

    dataset = load_dataset(arguments.dataset_dir)
    known = preset_for(dataset.name) is not None
    fingerprint = None if known else extract(dataset, arguments.num_workers)
    spatial_dims = SPATIAL_DIMS[arguments.configuration]
    plan = make_plan(dataset, spatial_dims, fingerprint)
    out = arguments.out or TASKS_DIR / f"{dataset.name}_{spatial_dims}d.json"
    ensure_writable(out.parent)
    write_json(out, plan.overlay())
    print(summary(plan, dataset))
    print(f"{'overlay':<14}{out}")


if __name__ == "__main__":
    with user_errors_exit():
        main()
