"""Measure speed and memory beside nnU-Net and MONAI, each contender in a separate process on one core.

    python scripts/benchmark.py resample
    python scripts/benchmark.py prepare --dataset_dir DATA/Task04_Hippocampus --json OUT.json
    python scripts/benchmark.py feed
    python scripts/benchmark.py train --rounds 3
    python scripts/benchmark.py train --grid seed --precision amp tf32 --json OUT.json --markdown OUT.md
    python scripts/benchmark.py scaling --dataset_dir DATA/Task04_Hippocampus
    python scripts/benchmark.py predict --dataset_dir DATA/Task04_Hippocampus --rounds 3
    python scripts/benchmark.py predict --parts forward --grid seed --device cuda
    python scripts/benchmark.py predict --model NNUNET_RESULTS --input IMAGES --rounds 3
    python scripts/benchmark.py parity --data DATA
    python scripts/benchmark.py learn --dataset_dir DATA/Task04_Hippocampus --out LEARN --minutes 5 10 20
    python scripts/benchmark.py objects --shape 512 512 640 --labels 20 104

The other projects are in .venv-peers (peers-requirements.txt, make peers); missing ones are skipped. Exit code 1 if a
contender failed. To add a subcommand, write a function that returns tables by title and list it in SUBCOMMANDS.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from dynunet_bundle.errors import ConfigError, user_errors_exit

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for benchmarks/, which is not installed


def at_least_0(text: str) -> float:
    from dynunet_bundle.shapes import COUNT, number_option

    return number_option(COUNT)(text)


def positive_number(text: str) -> float:
    from dynunet_bundle.shapes import number_option

    return number_option({"type": "number", "exclusiveMinimum": 0})(text)


def at_least_1(text: str) -> float:
    from dynunet_bundle.shapes import POSITIVE, number_option

    return number_option(POSITIVE)(text)


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
        predict_model,
    )

    if arguments.model:
        if arguments.input is None:
            raise ConfigError("--model needs --input with images by nnU-Net's names.")
        job = predict_model.ModelJob(
            arguments.model,
            arguments.input,
            arguments.configuration,
            arguments.mirroring,
            arguments.previous_dir,
        )
        own = (arguments.peers, arguments.core, job, arguments.rounds)
        return predict_model.run(ROOT / "bundle", work_dir, *own)
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


def objects(arguments: argparse.Namespace, work_dir: Path) -> dict[str, Any]:
    from benchmarks import objects

    shapes = arguments.shape or [[512, 512, 640]]
    return objects.run(shapes, arguments.labels, work_dir, arguments.core)


def learn(arguments: argparse.Namespace, work_dir: Path) -> dict[str, Any]:
    from benchmarks import learn

    data, out = arguments.dataset_dir.resolve(), arguments.out.resolve()
    job = learn.Learning(data, out, arguments.peers, arguments.minutes, arguments.seed)
    return learn.run(job)


SUBCOMMANDS = {
    "learn": learn,
    "objects": objects,
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
    common.add_argument("--json", type=Path, help="JSON file to write all figures to")
    common.add_argument("--markdown", type=Path, help="Markdown file to write the tables to")
    common.add_argument("--core", type=at_least_0, help="index of the core to run on")
    common.add_argument(
        "--peers", type=Path, default=ROOT / ".venv-peers", help="environment of the other projects"
    )
    commands = parser.add_subparsers(dest="subcommand", required=True)
    command = commands.add_parser(
        "resample", parents=[common], help="resample a synthetic CT and its label"
    )
    command.add_argument(
        "--shape", type=at_least_1, nargs=3, default=[200, 512, 512], metavar="VOXELS"
    )
    command = commands.add_parser("prepare", parents=[common], help="plan and prepare a data set")
    command.add_argument(
        "--dataset_dir", type=Path, required=True, help="folder of the data set, MSD layout"
    )
    command = commands.add_parser("feed", parents=[common], help="augment training patches")
    command.add_argument(
        "--num_batches", type=at_least_1, help="number of timed batches (default: 50 or 60)"
    )
    command = commands.add_parser("train", parents=[common], help="run training steps")
    command.add_argument(
        "--grid",
        choices=["small", "seed"],
        default="small",
        help="small: Task04's step on a CPU core; seed: the sizes of NVIDIA's figures, on a GPU",
    )
    command.add_argument("--device", help="cpu (default of small) or cuda (default of seed)")
    command.add_argument(
        "--precision",
        nargs="+",
        default=[],
        help="on a CPU: fp32 bf16; on a GPU: amp bf16 tf32 fp32",
    )
    command.add_argument(
        "--num_steps", type=at_least_1, help="number of timed steps (default: 3 or 100)"
    )
    command.add_argument("--rounds", type=at_least_1, default=1, help="rounds; the fastest counts")
    command.add_argument(
        "--num_workers", type=at_least_0, default=4, help="processes that read cases, on a GPU"
    )
    command = commands.add_parser("scaling", parents=[common], help="train with several processes")
    command.add_argument(
        "--dataset_dir", type=Path, required=True, help="folder of Task04_Hippocampus"
    )
    command.add_argument("--processes", type=at_least_1, nargs="+", default=[1, 2], metavar="N")
    command.add_argument("--num_steps", type=at_least_1, default=20, help="iterations per epoch")
    command.add_argument("--batch_size", type=at_least_1, default=2, help="patches per process")
    _add_objects(commands, common)
    _add_learning(commands, common)
    _add_prediction(commands, common)
    return parser.parse_args()


def _add_learning(commands: Any, common: argparse.ArgumentParser) -> None:
    command = commands.add_parser(
        "learn", parents=[common], help="Dice of held-out cases against CPU time of the training"
    )
    command.add_argument(
        "--dataset_dir", type=Path, required=True, help="folder of Task04_Hippocampus"
    )
    command.add_argument("--out", type=Path, required=True, help="folder of the runs, resumed")
    command.add_argument(
        "--minutes",
        type=positive_number,
        nargs="+",
        default=[5, 10, 20],
        help="CPU minutes of trainings",
    )
    command.add_argument("--seed", type=at_least_0, default=0, help="seed of all trainings")


def _add_objects(commands: Any, common: argparse.ArgumentParser) -> None:
    command = commands.add_parser(
        "objects", parents=[common], help="write DICOM objects of a mask with many labels"
    )
    command.add_argument(
        "--shape",
        type=at_least_1,
        nargs=3,
        action="append",
        metavar="VOXELS",
        help="columns, rows and slices; may be repeated (default: 512 512 640)",
    )
    command.add_argument(
        "--labels", type=at_least_1, nargs="+", default=[104], help="numbers of labels"
    )


def _add_prediction(commands: Any, common: argparse.ArgumentParser) -> None:
    command = commands.add_parser("predict", parents=[common], help="predict from file to file")
    command.add_argument(
        "--parts",
        nargs="+",
        choices=["forward", "files", "ct", "restore"],
        help="the network alone, small cases, a large CT, many classes (default: all)",
    )
    command.add_argument("--dataset_dir", type=Path, help="for files: folder of Task04_Hippocampus")
    command.add_argument(
        "--num_cases", type=at_least_1, default=20, help="for files: number of cases"
    )
    command.add_argument(
        "--grid",
        choices=["small", "seed"],
        default="small",
        help="for forward: as in train",
    )
    command.add_argument("--device", help="for forward: cpu or cuda")
    command.add_argument(
        "--precision", nargs="+", default=[], help="for forward: fp16 bf16 tf32 fp32 (default: all)"
    )
    command.add_argument("--rounds", type=at_least_1, default=1, help="rounds; the fastest counts")
    command.add_argument(
        "--model", type=Path, help="instead of all parts: a model of nnU-Net, results folder or zip"
    )
    command.add_argument("--input", type=Path, help="for --model: folder of images")
    command.add_argument("--configuration", help="for --model: configuration, if there are several")
    command.add_argument(
        "--mirroring", action="store_true", help="for --model: average over mirrored versions"
    )
    command.add_argument(
        "--previous_dir", type=Path, help="for --model: masks of a cascade's previous stage"
    )
    command = commands.add_parser(
        "parity",
        parents=[common],
        help="compare masks of equal logits with nnU-Net's, on real cases",
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
