"""Measure against other projects on this machine, each contender as a process of its own on one core; and training.

    python scripts/benchmark.py resample
    python scripts/benchmark.py prepare --dataset_dir DATA/Task04_Hippocampus --json OUT.json
    python scripts/benchmark.py feed
    python scripts/benchmark.py train --rounds 3
    python scripts/benchmark.py train --grid seed --precision amp tf32 --json OUT.json --markdown OUT.md
    python scripts/benchmark.py scaling --dataset_dir DATA/Task04_Hippocampus
    python scripts/benchmark.py predict --dataset_dir DATA/Task04_Hippocampus --rounds 3
    python scripts/benchmark.py predict --parts forward --grid seed --device cuda
    python scripts/benchmark.py parity --data DATA

Contenders live in .venv-peers (see peers-requirements.txt); those that are not there are skipped. Exit code 1 if one
failed. A further subcommand is a function that gives tables by title, and a line in SUBCOMMANDS.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from dynunet_bundle.errors import user_errors_exit

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for benchmarks/, which is not installed


def resample(arguments: argparse.Namespace, work_dir: Path) -> dict[str, Any]:
    from benchmarks import resample

    return resample.run(arguments.shape, work_dir, arguments.peers, arguments.core)


def prepare(arguments: argparse.Namespace, work_dir: Path) -> dict[str, Any]:
    from benchmarks import prepare

    return prepare.run(arguments.dataset_dir, work_dir, ROOT, arguments.peers, arguments.core)


def feed(arguments: argparse.Namespace, work_dir: Path) -> dict[str, Any]:
    from benchmarks import feed

    configs = ROOT / "bundle" / "configs"
    return feed.run(configs, work_dir, arguments.peers, arguments.core, arguments.num_batches)


def train(arguments: argparse.Namespace, work_dir: Path) -> dict[str, Any]:
    from benchmarks import train

    return train.run(
        ROOT / "bundle",
        work_dir,
        arguments.peers,
        arguments.core,
        arguments.device or {"small": "cpu", "seed": "cuda"}[arguments.grid],
        arguments.precision,
        arguments.num_steps,
        arguments.num_workers,
        arguments.rounds,
        train.GRIDS[arguments.grid],
    )


def scaling(arguments: argparse.Namespace, work_dir: Path) -> dict[str, Any]:
    from benchmarks import scaling

    return scaling.run(
        ROOT / "bundle",
        work_dir,
        arguments.dataset_dir,
        arguments.processes,
        arguments.num_steps,
        arguments.batch_size,
    )


def predict(arguments: argparse.Namespace, work_dir: Path) -> dict[str, Any]:
    from benchmarks import (
        predict,
        predict_forward,
    )

    return predict.run(
        ROOT / "bundle",
        work_dir,
        arguments.peers,
        arguments.core,
        arguments.parts or predict.PARTS,
        arguments.dataset_dir,
        arguments.device or {"small": "cpu", "seed": "cuda"}[arguments.grid],
        arguments.precision,
        arguments.num_cases,
        arguments.rounds,
        predict_forward.GRIDS[arguments.grid],
    )


def parity(arguments: argparse.Namespace, work_dir: Path) -> dict[str, Any]:
    from benchmarks import predict_parity

    data = arguments.data.resolve()
    return predict_parity.run(ROOT / "bundle", work_dir, data, arguments.peers, arguments.core)


SUBCOMMANDS = {
    "predict": predict,
    "parity": parity,
    "scaling": scaling,
    "resample": resample,
    "prepare": prepare,
    "feed": feed,
    "train": train,
}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", type=Path, help="write all figures to this file too")
    common.add_argument("--markdown", type=Path, help="write the tables to this file too")
    common.add_argument("--core", type=int, help="number of the core to run on")
    common.add_argument(
        "--peers", type=Path, default=ROOT / ".venv-peers", help="environment of the others"
    )
    commands = parser.add_subparsers(dest="subcommand", required=True)
    command = commands.add_parser("resample", parents=[common], help="a made CT and its label")
    command.add_argument("--shape", type=int, nargs=3, default=[200, 512, 512], metavar="VOXELS")
    command = commands.add_parser("prepare", parents=[common], help="fingerprint and preparation")
    command.add_argument("--dataset_dir", type=Path, required=True, help="folder in MSD layout")
    command = commands.add_parser("feed", parents=[common], help="augmented training patches")
    command.add_argument("--num_batches", type=int, help="batches to time (default: 50 or 60)")
    command = commands.add_parser("train", parents=[common], help="training steps")
    command.add_argument(
        "--grid",
        choices=["small", "seed"],
        default="small",
        help="Task04's step on a CPU core, or what NVIDIA's example publishes, on a GPU",
    )
    command.add_argument("--device", help="cpu (of the small grid) or cuda (of the seed's)")
    command.add_argument(
        "--precision", nargs="+", default=[], help="fp32 bf16 on a CPU; amp bf16 tf32 fp32 on a GPU"
    )
    command.add_argument("--num_steps", type=int, help="timed steps (default: 3 or 100)")
    command.add_argument("--rounds", type=int, default=1, help="turns of all; the fastest counts")
    command.add_argument("--num_workers", type=int, default=4, help="processes that read, on a GPU")
    command = commands.add_parser("scaling", parents=[common], help="processes that train as one")
    command.add_argument("--dataset_dir", type=Path, required=True, help="Task04_Hippocampus")
    command.add_argument("--processes", type=int, nargs="+", default=[1, 2], metavar="N")
    command.add_argument("--num_steps", type=int, default=20, help="iterations an epoch")
    command.add_argument("--batch_size", type=int, default=2, help="patches a process")
    _add_prediction(commands, common)
    return parser.parse_args()


def _add_prediction(commands: Any, common: argparse.ArgumentParser) -> None:
    command = commands.add_parser("predict", parents=[common], help="from file to file")
    command.add_argument(
        "--parts",
        nargs="+",
        choices=["forward", "files", "ct", "restore"],
        help="the network alone, small cases, a large CT, many classes (default: all)",
    )
    command.add_argument("--dataset_dir", type=Path, help="Task04_Hippocampus, for files")
    command.add_argument("--num_cases", type=int, default=20, help="of files")
    command.add_argument(
        "--grid",
        choices=["small", "seed"],
        default="small",
        help="of forward: Task04's patch on a CPU core, or what NVIDIA's example publishes",
    )
    command.add_argument("--device", help="of forward: cpu or cuda")
    command.add_argument(
        "--precision", nargs="+", default=[], help="of forward: fp16 bf16 tf32 fp32 (default: all)"
    )
    command.add_argument("--rounds", type=int, default=1, help="turns of all; the fastest counts")
    command = commands.add_parser(
        "parity", parents=[common], help="masks of equal logits on real cases, beside nnU-Net's"
    )
    command.add_argument("--data", type=Path, required=True, help="folder of the real cases")


def main() -> int:
    arguments = parse_arguments()

    from benchmarks.measure import choose_core, markdown, report, table
    from dynunet_bundle.files import atomic_write, ensure_writable, write_json

    arguments.core = choose_core(arguments.core)
    for path in filter(None, (arguments.json, arguments.markdown)):
        ensure_writable(path.parent)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as work_dir:
        sections = SUBCOMMANDS[arguments.subcommand](arguments, Path(work_dir))
    for title, rows in sections.items():
        print(f"{title}\n{table(rows)}\n")
    if arguments.json:
        write_json(arguments.json, report(arguments.subcommand, sections))
    if arguments.markdown:
        with atomic_write(arguments.markdown) as file:
            file.write(markdown(arguments.subcommand, sections).encode())
    return int(any(row.remark.startswith("failed") for rows in sections.values() for row in rows))


if __name__ == "__main__":
    with user_errors_exit():
        raise SystemExit(main())
