"""The books of a prediction of many cases, without images or a network; prints what they cost as JSON.

python many_cases.py FOLDER COUNT
"""

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

from dynunet_bundle.cluster.journal import Journal, stamps_of
from dynunet_bundle.cluster.records import ClusterRecord
from dynunet_bundle.inference.run_json import read_run_json

NUM_WORKERS = 16
PLAN = {"task_name": "Many", "label_names": ["background", "organ"], "label_values": [0, 1]}


def name_of_case(index: int) -> str:
    return f"case_{index:06d}"


def make_cases(folder: Path, count: int) -> list[dict[str, Any]]:
    """Empty files instead of images."""
    (folder / "in").mkdir()
    (folder / "out").mkdir()
    (folder / "model.pt").write_bytes(b"weights")
    cases = []
    for index in range(count):
        image = folder / "in" / f"{name_of_case(index)}.nii.gz"
        image.touch()
        cases.append({"image": str(image)})
    return cases


def entry_of(name: str, made_by: str) -> dict[str, Any]:
    """An entry of run.json as a prediction writes it."""
    return {
        "status": "done",
        "error": None,
        "inputs": [{"file": f"{name}.nii.gz", "bytes": 0, "sha256": "0" * 64}],
        "mask": f"{name}.nii.gz",
        "mask_sha256": "0" * 64,
        "objects": [],
        "refused": {},
        "made_by": made_by,
        "shape": [512, 512, 300],
        "sheared_degrees": 0.0,
        "seconds": {"load": 1.0, "network": 2.0, "restore": 1.0, "save": 1.0},
        "spacing_mm": [0.8, 0.8, 1.5],
        "volumes_ml": {"organ": 1500.0},
        "components": {"organ": 1},
        "entropy": {"organ": 0.05},
        "clipped": [0.0],
        "flags": [],
    }


def record_of(folder: Path, cases: list[dict[str, Any]]) -> ClusterRecord:
    return ClusterRecord(
        output_dir=str(folder / "out"),
        cases=cases,
        weights_file=str(folder / "model.pt"),
        plan=PLAN,
        parameters={"overlap": 0.5},
        resume=True,
    )


def predict(folder: Path, record: ClusterRecord, cases: list[dict[str, Any]]) -> None:
    """What the workers write for cases."""
    journals = [Journal(folder / "out", record.run) for _ in range(NUM_WORKERS)]
    for number, journal in enumerate(journals):
        journal.path = journal.path.with_name(f"{record.run}-{number}.jsonl")
    made_by = record.made_by()
    for index, case in enumerate(cases):
        name = Path(case["image"]).name.removesuffix(".nii.gz")
        (folder / "out" / f"{name}.nii.gz").touch()
        entry = entry_of(name, made_by)
        journals[index % NUM_WORKERS].add(name, entry, stamps_of(case, folder / "out", entry))


def memory_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Half of the cases, a new start as after a kill, and the other half."""
    folder, count = Path(sys.argv[1]), int(sys.argv[2])
    cases = make_cases(folder, count)
    before = memory_mib()
    record = record_of(folder, cases)
    left = record.remaining()
    record.begin("cpu")
    begun = time.monotonic()
    predict(folder, record, left[: count // 2])
    per_case = (time.monotonic() - begun) / (count // 2)
    # of the processor: other programs of the machine do not count
    begun = time.process_time()
    record = record_of(folder, cases)
    left = record.remaining()
    resume = time.process_time() - begun
    found = len(left)
    record.begin("cpu")
    predict(folder, record, left)
    begun = time.monotonic()
    record.complete(False)
    merge = time.monotonic() - begun
    memory = memory_mib() - before
    run = read_run_json(folder / "out" / "run.json")
    told = {
        "left_after_restart": found,
        "ms_per_case": 1000 * (per_case + merge / count),
        "resume_cpu_s": resume,
        "merge_s": merge,
        "memory_mib": memory,
        "status": run["status"],
        "in_order": list(run["cases"]) == [name_of_case(index) for index in range(count)],
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
