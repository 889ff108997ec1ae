"""A short run of the fuzzer, and proof that it sees each bad outcome."""

import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pydicom")

HERE = Path(__file__).parent
sys.path.append(str(HERE))

import attack  # noqa: E402 - lies in this folder
from attack_kinds import Attempt  # noqa: E402
from fuzz_inputs import seeds, spoil  # noqa: E402
from helpers.predictions import prediction, run_of, threshold_weights  # noqa: E402

from dynunet_bundle.errors import BundleError, CaseError, PredictionError  # noqa: E402


def run_attack(folder: Path, seed: int, count: int) -> subprocess.CompletedProcess[str]:
    temporary = folder / "temporary"
    temporary.mkdir()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(temporary)}
    options = ["--seed", str(seed), "--count", str(count), "--folder", str(folder / "attack")]
    command = [sys.executable, str(HERE / "attack.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert not list(temporary.glob("dynunet-dicom-*"))
    return done


def faults(folder: Path) -> str:
    file = folder / "attack" / "faults"
    return file.read_text() if file.exists() else ""


def test_a_short_attack_finds_nothing(tmp_path: Path) -> None:
    done = run_attack(tmp_path, 0, 300)
    assert done.returncode == 0, faults(tmp_path)[-3000:] or done.stderr[-3000:]
    total = done.stdout.splitlines()[-1].split()
    assert total[:2] == ["all", "300"]
    assert total[4:] == ["0"] * 5
    assert int(total[2]) > 30
    assert int(total[3]) > 150


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 11))
def test_long_attacks_find_nothing(tmp_path: Path, seed: int) -> None:
    done = run_attack(tmp_path, seed, 5000)
    assert done.returncode == 0, faults(tmp_path)[-3000:]


def refuse(folder: Path) -> None:
    raise CaseError("a", "it is damaged", "Copy it again.")


def refuse_in_two_lines(folder: Path) -> None:
    raise PredictionError("case a:\nit is damaged.")


def use_a_wrong_type(folder: Path) -> None:
    raise TypeError("NoneType")


def take_memory(folder: Path) -> None:
    bytearray(1 << 40)


def wait(folder: Path) -> None:
    time.sleep(60)


def crash(folder: Path) -> None:
    ctypes.string_at(0)


@pytest.mark.parametrize(
    ("act", "expected"),
    [
        (lambda folder: None, "right"),
        (refuse, "refused in one line"),
        (refuse_in_two_lines, "traceback"),
        (use_a_wrong_type, "traceback"),
        (crash, "traceback"),
        (take_memory, "over memory"),
        (wait, "hang"),
        (lambda folder: "wrong voxels", "wrong voxels"),
        (lambda folder: (folder.parent / "marker").touch(), "code run"),
    ],
)
def test_each_outcome_is_seen(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    act: Callable[[Path], str | None],
    expected: str,
) -> None:
    monkeypatch.setattr(attack, "MAX_SECONDS", 2)
    attempts = [Attempt("kind: a", act), Attempt("kind: b", lambda folder: None)]
    attack.run_all(list(enumerate(attempts)), tmp_path, tmp_path / "marker")
    rows = [line.split('"')[3] for line in (tmp_path / "outcomes").read_text().splitlines()]
    assert rows == [expected, "right"]
    assert (tmp_path / "faults").exists() == (expected in attack.BAD)


def test_a_prediction_of_spoiled_inputs_leaves_whole_masks_only(tmp_path: Path) -> None:
    given = {
        name: files for name, files in seeds().items() if not name.startswith(("dicom", "zip"))
    }
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for index, kind in enumerate(sorted(given) * 3):
        rng = np.random.default_rng([7, index])
        for name, content in spoil(rng, given[kind]).items():
            (folder / f"{index}_{name}").write_bytes(content)
    with pytest.raises(BundleError, match="cases failed"):
        prediction(folder, out, threshold_weights(tmp_path / "model.pt")).run()
    run = run_of(out)
    done = {case["mask"] for case in run["cases"].values() if case["status"] == "done"}
    assert {path.name for path in out.iterdir()} == {*done, "run.json"}
    failed = [case["error"] for case in run["cases"].values() if case["status"] == "failed"]
    assert len(failed) > 20 and len(done) + len(failed) == len(run["cases"])
    assert not any(str(tmp_path) in error for error in failed)
