"""Benchmark: from a raw data set to prepared cases, compared with nnU-Net's fingerprint and preprocessing."""

import json
import re
import sys
from pathlib import Path

from benchmarks.measure import Contender, Measurement, Step, measure, peer_command
from dynunet_bundle.dataset.cases import absolute
from dynunet_bundle.dataset.select import load_dataset
from dynunet_bundle.errors import DatasetError

PEER_ID = "999"
TASK_NAME = re.compile(r"Task\d+_[^_]+")


def run(
    dataset_dir: Path, work_dir: Path, root: Path, peers: Path, core: int
) -> dict[str, list[Measurement]]:
    """Measure all contenders as whole processes, including start-up.

    Ours are the scripts ``plan.py`` (checks, fingerprint, plan) and ``prepare.py``. For nnU-Net, only fingerprint and
    preprocessing are timed, not the conversion of the data set and the planning.

    Args:
        dataset_dir: a data set in MSD layout.
        work_dir: an empty folder for all output.
        root: the repository, for its scripts.
        peers: environment with nnunetv2.
        core: CPU core to run on.

    Returns:
        Measurements by title, ours first.

    Raises:
        DatasetError: if the folder has no MSD data set.
    """
    dataset = load_dataset(str(dataset_dir))
    contenders = (_ours(dataset_dir, work_dir, root), _nnunetv2(dataset_dir, work_dir, peers))
    title = f"{dataset.name}, {len(dataset.training)} training cases"
    return {title: [measure(contender, core) for contender in contenders]}


def _ours(dataset_dir: Path, work_dir: Path, root: Path) -> Contender:
    scripts, overlay = root / "scripts", work_dir / "plan" / "overlay.json"
    overlay.parent.mkdir()
    data = ("--dataset_dir", str(dataset_dir))
    plan = ("--out", str(overlay), "--cache_dir", str(work_dir / "surveys"))
    store = ("--config_file", str(overlay), "--prepared_dir", str(work_dir / "prepared"))
    return Contender(
        "ours",
        (
            Step((sys.executable, str(scripts / "plan.py"), *data, *plan)),
            Step((sys.executable, str(scripts / "prepare.py"), *data, *store)),
        ),
    )


def _nnunetv2(dataset_dir: Path, work_dir: Path, peers: Path) -> Contender:
    convert, missing = peer_command(peers, "nnUNetv2_convert_MSD_dataset")
    folders = {
        f"nnUNet_{name}": str(work_dir / f"nnUNet_{name}")
        for name in ("raw", "preprocessed", "results")
    }
    for folder in folders.values():
        Path(folder).mkdir()
    commands = {
        name: peer_command(peers, f"nnUNetv2_{name}")[0]
        for name in ("extract_fingerprint", "plan_experiment", "preprocess")
    }
    case = ("-d", PEER_ID)
    return Contender(
        "nnunetv2",
        (
            Step(
                (convert, "-i", str(msd_copy(dataset_dir, work_dir)), "-overwrite_id", PEER_ID)
                + ("-np", "1"),
                timed=False,
            ),
            Step((commands["extract_fingerprint"], *case, "-np", "1")),
            Step((commands["plan_experiment"], *case), timed=False),
            Step((commands["preprocess"], *case, "-c", "3d_fullres", "-np", "1")),
        ),
        # nnU-Net sets torch's threads to its number of augmentation workers; torch refuses 0
        {**folders, "nnUNet_n_proc_DA": "1"},
        missing,
    )


def msd_copy(dataset_dir: Path, work_dir: Path) -> Path:
    """The data set in the form of nnU-Net's converter: a folder TaskNN_Name with imagesTs, only the listed cases."""
    path = dataset_dir / "dataset.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        training = content["training"]
    except (OSError, ValueError, KeyError) as error:
        raise DatasetError(
            f"{path} is not that of an MSD data set: {error}. Pass an MSD data set."
        ) from error
    name = absolute(dataset_dir).name
    copy = work_dir / (name if TASK_NAME.fullmatch(name) else f"Task{PEER_ID}_Data")
    for folder in ("imagesTr", "labelsTr", "imagesTs"):
        (copy / folder).mkdir(parents=True)
    for case in training:
        for key, folder in (("image", "imagesTr"), ("label", "labelsTr")):
            source = absolute(dataset_dir / case[key])
            (copy / folder / source.name).symlink_to(source)
    (copy / "dataset.json").write_text(
        json.dumps({**content, "numTraining": len(training)}), encoding="utf-8"
    )
    return copy
