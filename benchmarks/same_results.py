"""Check that a code change does not change any result: run the same commands before and after it, and compare.

    python benchmarks/same_results.py --repository BEFORE --data DATA --out before.json
    python benchmarks/same_results.py --repository AFTER --data DATA --out after.json --compare before.json

``DATA`` holds Task04_Hippocampus and extra/prostatex_t2_adc. The comparison covers plan overlays of both, a prepared
store, a training of a few iterations with its evaluation (float32 on one thread, hence bitwise reproducible), masks,
scores, and the files of a package. Only times, versions, host names and module paths are excluded.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch

NUM_CASES = 8
VOLATILE = re.compile(
    r"second|time|date|started|finished|version|host|machine|python|platform|created|sha256|hash|recipe|per_s$|cpu|package|path|mtime"
)
"""Keys of JSON files whose values differ between two runs of the same code or contain module names."""

MODULE = re.compile(r"\bdynunet_bundle(?:\.[a-z_0-9]+)+\.")
TRAIN = {
    "epochs": 1,
    "iterations_per_epoch": 4,
    "val_interval": 1,
    "feed_threads": 1,
    "amp": False,
    "num_folds": 4,
}


def main() -> None:
    """Collect the digests, and compare them with those of another run if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--repository", type=Path, default=Path(__file__).resolve().parents[1])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="JSON to write: digest by result")
    parser.add_argument(
        "--compare", type=Path, help="JSON of an earlier run; exit code 1 if a digest differs"
    )
    arguments = parser.parse_args()
    # a fixed path: names in the prepared store depend on it
    work = Path(tempfile.gettempdir()).resolve() / "dynunet_bundle_same_results"
    shutil.rmtree(work, ignore_errors=True)
    found = results(arguments.repository.resolve(), arguments.data.resolve(), work)
    shutil.rmtree(work)
    arguments.out.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    if arguments.compare:
        before = json.loads(arguments.compare.read_text())
        different = sorted(
            name for name in {*before, *found} if before.get(name) != found.get(name)
        )
        print(f"{len({*before, *found})} results, {len(different)} differ", *different, sep="\n  ")
        sys.exit(bool(different))


def results(root: Path, data: Path, work: Path) -> dict[str, str]:
    """Digests of all files that the commands write."""
    own = _few_cases(data / "Task04_Hippocampus", work / "DATA" / "Task04_Hippocampus")
    found: dict[str, str] = {}
    for source, extra in (
        (data / "Task04_Hippocampus", ()),
        (data / "Task04_Hippocampus", ("--planner", "resenc_m")),
        (data / "extra" / "prostatex_t2_adc", ()),
        (data / "extra" / "prostatex_t2_adc", ("--configuration", "2d")),
    ):
        overlay = work / "plans" / f"{source.name}{''.join(extra)}.json"
        arguments = [
            "--dataset_dir",
            source,
            "--out",
            overlay,
            "--cache_dir",
            work / "surveys",
            *extra,
        ]
        _script(root, "plan", *arguments)
    _bundle(root, work, own, "training", "'configs/train.json','configs/quick.json'", **TRAIN)
    evaluating = "'configs/train.json','configs/evaluate.json','configs/quick.json'"
    only = {"num_folds": TRAIN["num_folds"], "precision": "float32"}
    _bundle(root, work, own, "evaluating", evaluating, **only)
    weights = ["--weights", work / "run" / "model.pt"]
    overlay = root / "bundle" / "configs" / "quick.json"
    masks = ["--input", own / "imagesTr", "--output", work / "masks", "--precision", "float32"]
    _script(root, "predict", *masks, *weights, "--config_file", overlay)
    _script(root, "evaluate", "--predictions", work / "masks", "--labels", own / "labelsTr")
    named = ["--name", "hippocampus_mr_segmentation", "--scores", work / "run" / "scores.json"]
    packed = ["--task_config", overlay, *weights, *named, "--out", work / "packages"]
    _script(root, "package", *packed)
    for file in sorted(work.rglob("*")):
        name = str(file.relative_to(work))
        if file.is_file() and not name.startswith(("DATA", "surveys", "run/tensorboard")):
            found |= _digests(name, file)
    return found


def _few_cases(source: Path, target: Path) -> Path:
    """A data set with copies of the first cases."""
    info = json.loads((source / "dataset.json").read_text())
    info["training"] = info["training"][:NUM_CASES]
    info["numTraining"] = NUM_CASES
    info["test"], info["numTest"] = [], 0
    for pair in info["training"]:
        for name in pair.values():
            file = target / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes((source / name).read_bytes())
    (target / "dataset.json").write_text(json.dumps(info))
    return target


def _script(root: Path, name: str, *arguments: Any) -> None:
    _run(root, [str(root / "scripts" / f"{name}.py"), *map(str, arguments)], root)


def _bundle(root: Path, work: Path, data: Path, verb: str, configs: str, **settings: Any) -> None:
    folders = {
        "ckpt_dir": work / "run",
        "output_dir": work / "run",
        "prepared_dir": work / "prepared",
    }
    values = {"config_file": f"[{configs}]", "dataset_dir": data, **folders, **settings}
    flags = [text for name, value in values.items() for text in (f"--{name}", str(value))]
    _run(root, ["-m", "monai.bundle", "run", verb, *flags], root / "bundle")


def _run(root: Path, arguments: list[str], folder: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(root / "bundle"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(  # noqa: S603
        [sys.executable, *arguments],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{arguments} failed:\n{done.stdout}\n{done.stderr}")


def _digests(name: str, file: Path) -> dict[str, str]:
    """One digest per file, or per member of a zip."""
    if file.suffix == ".zip":
        with zipfile.ZipFile(file) as archive:
            own = [member for member in archive.namelist() if "/dynunet_bundle/" not in member]
            names = [member for member in own if not member.endswith("SHA256SUMS")]
            return {
                f"{name}/{member}": _digest_of(member, archive.read(member)) for member in names
            }
    if "/packages/" in f"/{name}" or name.endswith((".lock", ".png", ".state", "status.json")):
        return {}
    if name.endswith("state.pt") or "/checkpoint" in name:
        return {}
    return {name: _digest_of(file.name, file.read_bytes())}


def _digest_of(name: str, content: bytes) -> str:
    suffixes = Path(name).suffixes
    if suffixes[-1:] == [".json"] or suffixes[-1:] == [".jsonl"]:
        lines = content.decode().splitlines() if suffixes[-1] == ".jsonl" else [content.decode()]
        content = json.dumps([_lasting(json.loads(line)) for line in lines]).encode()
        content = MODULE.sub("", content.decode()).encode()
    elif suffixes[-1:] == [".pt"]:
        with tempfile.NamedTemporaryFile(suffix=".pt") as file:
            file.write(content)
            file.flush()
            state = torch.load(file.name, weights_only=True)
        content = (
            b"".join(
                key.encode() + value.contiguous().numpy().tobytes()
                for key, value in sorted(state.items())
            )
            if isinstance(state, dict) and all(map(torch.is_tensor, state.values()))
            else b"state"
        )
    elif suffixes[-2:] == [".nii", ".gz"]:
        with tempfile.NamedTemporaryFile(suffix=".nii.gz") as file:
            file.write(content)
            file.flush()
            image = nib.load(file.name)
            content = np.asarray(image.dataobj).tobytes() + image.affine.tobytes()
    elif suffixes[-1:] == [".md"]:
        content = re.sub(rb"\d{4}-\d\d-\d\d|[0-9a-f]{12,}", b"", content)
    return hashlib.sha256(content).hexdigest()


def _lasting(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _lasting(item) for key, item in value.items() if not VOLATILE.search(key)}
    if isinstance(value, list):
        return [_lasting(item) for item in value]
    return re.sub(r"/tmp/\w+", "", value) if isinstance(value, str) else value  # noqa: S108


if __name__ == "__main__":
    main()
