"""Benchmark: predictions against nnU-Net's, in parts: the network alone, small cases, a large CT, many classes."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks import predict_files, predict_forward, predict_scan
from benchmarks.measure import Measurement
from dynunet_bundle.errors import ConfigError

PARTS = ("forward", "files", "ct", "restore")


def run(
    bundle: Path,
    work_dir: Path,
    peers: Path,
    core: int,
    parts: Sequence[str] = PARTS,
    dataset_dir: Path | None = None,
    device: str = "cpu",
    precisions: Sequence[str] = (),
    num_cases: int = 20,
    rounds: int = 1,
    grid: Sequence[predict_forward.Patches] = predict_forward.SMALL,
) -> dict[str, list[Measurement]]:
    """Measure some parts; all except ``forward`` run on one CPU core.

    Args:
        bundle: the bundle folder.
        work_dir: an empty folder.
        peers: environment with nnunetv2.
        core: CPU core to run on, with one thread.
        parts: any of ``PARTS``.
        dataset_dir: Task04_Hippocampus, for ``files``.
        device: for ``forward``: ``cpu`` or ``cuda``.
        precisions: for ``forward``, see ``predict_forward.PRECISIONS``.
        num_cases: for ``files``.
        rounds: rounds of all contenders; the fastest counts.
        grid: patches of ``forward``.

    Returns:
        Measurements by title, ours first.

    Raises:
        ConfigError: if the device does not have a precision, or ``dataset_dir`` is missing.
        DatasetError: if it has too few cases.
    """
    if "files" in parts and dataset_dir is None:
        raise ConfigError('the part "files" needs --dataset_dir with Task04_Hippocampus.')
    sections: dict[str, list[Measurement]] = {}
    for part in parts:
        folder = work_dir / part
        folder.mkdir()
        common = (bundle, folder, peers, core)
        if part == "forward":
            sections |= predict_forward.run(*common, device, precisions, rounds, grid)
        elif part == "files" and dataset_dir is not None:
            sections |= predict_files.run(
                bundle, folder, dataset_dir, peers, core, num_cases, rounds
            )
        elif part == "ct":
            sections |= predict_scan.run(*common, rounds)
        elif part == "restore":
            sections |= predict_scan.restore(bundle, folder, core)
    return sections
