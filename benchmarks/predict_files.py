"""Benchmark: small cases from file to file, compared with nnU-Net's ``nnUNetv2_predict -npp 0 -nps 0``.

One run predicts one case, another run many cases: the difference gives the time per case, the remainder the start-up.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import Contender, Measurement
from benchmarks.predict_jobs import PEER, contender, fastest, take_turns
from dynunet_bundle.configs.workflow import load_workflow
from dynunet_bundle.errors import DatasetError
from dynunet_bundle.networks.weights import save_weights

PRECISIONS = ("auto", "float32")
SUFFIX = ".nii.gz"
MANY = 60
"""Number of cases for which the time per case with start-up is reported."""


def run(
    bundle: Path,
    work_dir: Path,
    dataset_dir: Path,
    peers: Path,
    core: int,
    num_cases: int = 20,
    rounds: int = 1,
    mirroring: Sequence[bool] = (False, True),
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, list[Measurement]]:
    """Measure both on the plan of inference.json, with random weights.

    Args:
        bundle: the bundle folder.
        work_dir: an empty folder.
        dataset_dir: Task04_Hippocampus in MSD layout.
        peers: environment with nnunetv2.
        core: CPU core to run on, with one thread.
        num_cases: cases of the longer run, at least two.
        rounds: rounds of all contenders; the fastest counts.
        mirroring: one table per value: with or without mirroring.
        overrides: overrides of inference.json.

    Returns:
        Measurements by title, ours first; seconds are for one case.

    Raises:
        DatasetError: if there are fewer cases than ``num_cases``.
    """
    images = sorted((dataset_dir / "imagesTr").glob(f"*{SUFFIX}"))[:num_cases]
    if len(images) < max(num_cases, 2):
        raise DatasetError(
            f"{dataset_dir}/imagesTr has {len(images)} cases, not {num_cases}. Pass the whole data set."
        )
    plan, weights = make_weights(bundle, work_dir, {"device": "cpu", **(overrides or {})})
    inputs = {
        number: link_images(images[:number], work_dir / f"{number}_cases")
        for number in (1, num_cases)
    }
    sections = {}
    for mirrored in mirroring:
        contenders = []
        for name, own in _settings():
            for number, folders in inputs.items():
                job = files_job(bundle, plan, weights, mirrored, own)
                folder = folders[own["contender"]]
                output = work_dir / f"masks_{name}_{number}_{mirrored}".replace(" ", "_")
                job |= {"input": str(folder), "output": str(output)}
                contenders.append(contender(name, job, work_dir, peers))
        rows = _rows(contenders, num_cases, rounds, core)
        title = f"{dataset_dir.name}, file to file, {'with' if mirrored else 'without'} mirroring"
        sections[f"{title}; seconds per case"] = rows
    return sections


def _settings() -> list[tuple[str, dict[str, str]]]:
    ours = [
        (f"ours, {precision}", {"contender": "ours", "precision": precision})
        for precision in PRECISIONS
    ]
    return [*ours, (PEER, {"contender": PEER, "precision": "float32"})]


def files_job(
    bundle: Path, plan: Mapping[str, Any], weights: Path, mirroring: bool, own: Mapping[str, Any]
) -> dict[str, Any]:
    """A job of ``predict_contender.files`` with the real network, still without folders."""
    return {
        "job": "files",
        "bundle": str(bundle),
        "plan": plan,
        "overrides": {},
        "weights": str(weights),
        "mirroring": mirroring,
        "bands": None,
        "num_real": 0,
        **own,
    }


def make_weights(
    bundle: Path, folder: Path, overrides: Mapping[str, Any]
) -> tuple[dict[str, Any], Path]:
    """Random weights for a plan of inference.json.

    Args:
        bundle: the bundle folder.
        folder: folder of ``model.pt``.
        overrides: of inference.json, including ``device``.

    Returns:
        The plan with the device, and the file.
    """
    import torch

    parser = load_workflow(bundle, "inference.json", (), overrides).parser
    torch.manual_seed(0)
    network, plan = (parser.get_parsed_content(name) for name in ("network_def", "plan"))
    path = folder / "model.pt"
    save_weights(path, network.state_dict(), plan, {})
    return {**plan, "device": overrides["device"]}, path


def link_images(images: Sequence[Path], folder: Path) -> dict[str, Path]:
    """Folders of links to images of one channel, by contender: nnU-Net needs channel numbers in the file names."""
    folders = {"ours": folder / "ours", PEER: folder / PEER}
    for name, place in folders.items():
        place.mkdir(parents=True)
        ending = f"_0000{SUFFIX}" if name == PEER else SUFFIX
        for image in images:
            link = place / (image.name.removesuffix(SUFFIX) + ending)
            link.symlink_to(image.resolve())
    return folders


def _rows(
    contenders: Sequence[Contender], num_cases: int, rounds: int, core: int
) -> list[Measurement]:
    best = [fastest(turns) for turns in take_turns(contenders, rounds, core)]
    return [_row(one, many, num_cases) for one, many in zip(best[::2], best[1::2], strict=True)]


def _row(one: Measurement, many: Measurement, num_cases: int) -> Measurement:
    """Seconds per case and for the start-up, from a run of one case and a run of many."""
    failed = next((row for row in (one, many) if row.remark), None)
    if failed:
        return failed
    first, all_of_them = one.cpu_s or 0.0, many.cpu_s or 0.0
    a_case = (all_of_them - first) / (num_cases - 1)
    start_up = first - a_case
    details = {
        f"{num_cases} cases s": all_of_them,
        "start-up s": start_up,
        "stages_s": many.details["stages_s"],
    }
    remark = f"{start_up / MANY + a_case:.2f} CPU s with the start-up, in a run of {MANY}"
    return Measurement(many.contender, a_case, None, many.peak_mib, remark, details)
