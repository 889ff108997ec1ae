"""Look at a data set and write its task overlay, the second config file of every command.

    python scripts/plan.py --dataset_dir DATA/Task09_Spleen
    python scripts/plan.py --dataset_dir DATA/Task09_Spleen --configuration 2d --gpu_memory_gb 16
    python scripts/plan.py --dataset_dir DATA/Task09_Spleen --preset seed
    python scripts/plan.py --fingerprint FINGERPRINT.json --out OVERLAY.json

The overlay goes to bundle/configs/tasks/, with what was found in the data beside it in fingerprints/.
"""

import argparse
import logging
from pathlib import Path

from dynunet_bundle.errors import ConfigError, PlanError, user_errors_exit

TASKS_DIR = Path(__file__).resolve().parents[1] / "bundle" / "configs" / "tasks"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--dataset_dir", help="folder in MSD layout")
    source.add_argument("--fingerprint", help="plan from saved facts alone; needs --out")
    parser.add_argument(
        "--configuration", choices=("3d_fullres", "2d", "3d_lowres"), default="3d_fullres"
    )
    parser.add_argument("--preset", choices=("seed",), help="NVIDIA's tables instead of the data")
    parser.add_argument("--gpu_memory_gb", type=float, help="memory to plan for (default: 8)")
    parser.add_argument("--out", type=Path, help="overlay to write (default: in configs/tasks)")
    parser.add_argument("--num_workers", type=int, default=4, help="threads that read cases")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    from dynunet_bundle.dataset import load_dataset, names_for  # noqa: PLC0415 - keeps --help fast
    from dynunet_bundle.dataset_check import require_usable  # noqa: PLC0415
    from dynunet_bundle.files import ensure_writable, read_json, write_json  # noqa: PLC0415
    from dynunet_bundle.planning.fingerprint import Fingerprint, extract  # noqa: PLC0415
    from dynunet_bundle.planning.planner import make_plan, seed_plan, summary  # noqa: PLC0415

    if arguments.gpu_memory_gb is not None and arguments.gpu_memory_gb <= 0:
        raise ConfigError(f"--gpu_memory_gb is {arguments.gpu_memory_gb:g}; it must be positive.")
    if arguments.fingerprint:
        if arguments.out is None or arguments.preset:
            raise ConfigError("--fingerprint needs --out, and takes no --preset.")
        content = read_json(arguments.fingerprint, PlanError)
        dataset = names_for(Path(arguments.fingerprint).stem, content)
        fingerprint = Fingerprint.from_json(content)
        source = f"{arguments.fingerprint}, {len(fingerprint.spacings_mm)} cases"
    else:
        dataset = load_dataset(arguments.dataset_dir)
        require_usable(dataset, arguments.num_workers)
        source = f"{len(dataset.training)} training cases"
    if arguments.preset:
        plan = seed_plan(dataset, 2 if arguments.configuration == "2d" else 3)
        source = "the seed's preset"
    else:
        if arguments.dataset_dir:
            fingerprint = extract(dataset, arguments.num_workers)
        plan = make_plan(dataset, fingerprint, arguments.configuration, arguments.gpu_memory_gb)
    suffix = "3d_lowres" if arguments.configuration == "3d_lowres" else f"{plan.spatial_dims}d"
    out = arguments.out or TASKS_DIR / f"{dataset.name}_{suffix}.json"
    ensure_writable(out.parent)
    write_json(out, plan.overlay())
    print(summary(plan, source))
    print(f"{'overlay':<15}{out}")
    if arguments.dataset_dir and not arguments.preset:
        facts = ensure_writable(out.parent / "fingerprints") / f"{dataset.name}.json"
        write_json(
            facts,
            {
                **fingerprint.to_json(),
                "channel_names": list(dataset.channel_names),
                "label_names": list(dataset.label_names),
            },
        )
        print(f"{'fingerprint':<15}{facts}")


if __name__ == "__main__":
    with user_errors_exit():
        main()
