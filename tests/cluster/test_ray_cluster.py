"""Predictions on two Ray nodes of this machine, whose processes and nodes are killed: run by ``make test-cluster``."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import BUNDLE, ROOT, run_script, save_nifti
from helpers.predictions import AFFINE, THRESHOLD_PLAN, save_cases, threshold_weights

pytestmark = pytest.mark.cluster

CLUSTER = Path(os.environ.get("DYNUNET_CLUSTER", ROOT / ".venv-cluster"))
HERE = Path(__file__).parent
NAMES = tuple(f"case_{index}" for index in range(8))
SECONDS = 2.0
"""Time of a case where something dies in the middle."""

VOLATILE = ("started", "seconds", "device")


class Nodes:
    """Two nodes in a process of their own."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [CLUSTER / "bin" / "python", HERE / "two_nodes.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment(),
        )
        self.address = self._line()

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def tell(self, word: str) -> None:
        assert self.process.stdin is not None
        print(word, file=self.process.stdin, flush=True)
        assert self._line() == "done"

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)


def environment() -> dict[str, str]:
    own = {"PYTHONPATH": f"{BUNDLE}:{HERE}", "OMP_NUM_THREADS": "1"}
    own |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    return {**os.environ, **own}


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    if not (CLUSTER / "bin" / "ray").is_file():
        pytest.skip(f"Ray is not in {CLUSTER}: run make test-cluster")
    made = Nodes()
    yield made
    made.close()


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return threshold_weights(tmp_path / "model.pt")


def words(tmp_path: Path, output: str, **network: Any) -> list[str]:
    """Arguments of ``predict``, for a network that may kill its process."""
    target = {"_target_": "deadly_network.DeadlyNetwork", "folder": str(tmp_path), **network}
    plan = {name: value for name, value in THRESHOLD_PLAN.items() if name != "device"}
    overlay = tmp_path / "overlay.json"
    overlay.write_text(json.dumps({**plan, "network_def": target}))
    given = ["predict", "--input", tmp_path / "in", "--output_dir", tmp_path / output]
    given += ["--model", tmp_path / "model.pt", "--config_file", overlay, "--trust"]
    return list(map(str, [*given, "--device", "cpu"]))


def start(arguments: list[str], *, address: str | None = None) -> subprocess.Popen[str]:
    command = [str(CLUSTER / "bin" / "python"), "-m", "dynunet_bundle", *arguments]
    return subprocess.Popen(
        command + (["--ray", address] if address else []),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )


def finished(process: subprocess.Popen[str]) -> tuple[int, str]:
    out, err = process.communicate(timeout=300)
    return process.returncode, out + err


def run_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "run.json").read_text()))


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def plain(case: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in case.items() if name != "seconds"}


def require_equal(one: Path, other: Path, names: tuple[str, ...] = NAMES) -> None:
    """The same bytes of masks, and the same run.json except for times."""
    for name in names:
        file = f"{name}.nii.gz"
        assert (one / file).read_bytes() == (other / file).read_bytes()
    ours, theirs = run_of(one), run_of(other)
    for name in names:
        assert plain(ours["cases"][name]) == plain(theirs["cases"][name])
    for key in ours.keys() - {*VOLATILE, "cases", "status", "exit_code"}:
        assert ours[key] == theirs[key], key


def save_bright(folder: Path, name: str, value: float) -> None:
    array = np.random.default_rng(9).uniform(1, 20, (20, 18, 16)).astype(np.float32)
    array[3:12, 4:12, 5:12] = value
    save_nifti(folder / f"{name}.nii.gz", array, AFFINE)


def test_masks_and_run_json_are_those_of_one_process(
    nodes: Nodes, weights: Path, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    save_cases(tmp_path / "in", *NAMES)
    (tmp_path / "in" / "broken.nii.gz").write_bytes(b"not an image")
    code, told = finished(start(words(tmp_path, "alone")))
    assert code == 1, told
    code, told = finished(start(words(tmp_path, "many"), address=nodes.address))
    assert code == 1, told
    assert "broken failed" in told and "predict: 9 of 9" in told and "2 workers" in told
    require_equal(tmp_path / "alone", tmp_path / "many")
    assert list(run_of(tmp_path / "many")["cases"]) == sorted([*NAMES, "broken"])
    broken = [plain(run_of(tmp_path / way)["cases"]["broken"]) for way in ("alone", "many")]
    assert broken[0] == broken[1] and broken[0]["status"] == "failed"
    assert [path.name for path in (tmp_path / "many" / ".run_records").iterdir()] == [
        "merged.jsonl"
    ]
    # going on is the default: only the case that failed is tried again
    masks = {name: (tmp_path / "many" / f"{name}.nii.gz").stat().st_mtime_ns for name in NAMES}
    code, told = finished(start(words(tmp_path, "many"), address=nodes.address))
    assert code in (1, 2) and "8 of 9 cases are already done" in told
    assert masks == {
        name: (tmp_path / "many" / f"{name}.nii.gz").stat().st_mtime_ns for name in NAMES
    }
    assert list(run_of(tmp_path / "many")["cases"]) == sorted([*NAMES, "broken"])


def test_a_case_that_kills_workers_fails_and_the_others_are_done(
    nodes: Nodes, weights: Path, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    save_cases(tmp_path / "in", *NAMES[:3])
    save_bright(tmp_path / "in", "deadly", 9000.0)
    save_bright(tmp_path / "in", "once", 4000.0)
    code, told = finished(start(words(tmp_path, "many"), address=nodes.address))
    assert code == 1 and "1 of 5 cases failed, the others are done" in told
    assert "case deadly: 2 workers died with it" in told
    cases = run_of(tmp_path / "many")["cases"]
    assert {name: case["status"] for name, case in cases.items()} == {
        **dict.fromkeys(NAMES[:3], "done"),
        "deadly": "failed",
        "once": "done",
    }


def test_a_node_that_dies_costs_a_retry(nodes: Nodes, weights: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    save_cases(tmp_path / "in", *NAMES)
    process = start(words(tmp_path, "many", seconds=SECONDS), address=nodes.address)
    try:
        wait_until(lambda: len(list(tmp_path.glob("begun_*"))) == 2)
        nodes.tell("kill")
        code, told = finished(process)
    finally:
        process.kill()
        nodes.tell("add")
    assert code == 0, told
    assert "its worker died; it is tried once more in another one" in told
    assert finished(start(words(tmp_path, "alone")))[0] == 0
    require_equal(tmp_path / "alone", tmp_path / "many")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_command_that_was_killed_goes_on(
    number: int, nodes: Nodes, weights: Path, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    save_cases(tmp_path / "in", *NAMES)
    process = start(words(tmp_path, "many", seconds=SECONDS), address=nodes.address)
    wait_until(lambda: len(list((tmp_path / "many").glob("*.nii.gz"))) >= 3)
    process.send_signal(number)
    code, told = finished(process)
    assert code == (-9 if number == signal.SIGKILL else 75), told
    run = run_of(tmp_path / "many")
    assert run["status"] == ("running" if number == signal.SIGKILL else "stopped")
    code, told = finished(start(words(tmp_path, "many"), address=nodes.address))
    assert code == 0 and "of 8 cases are already done" in told, told
    assert run_of(tmp_path / "many")["status"] == "finished"
    assert finished(start(words(tmp_path, "alone")))[0] == 0
    require_equal(tmp_path / "alone", tmp_path / "many")


def test_masks_are_scored_and_cases_prepared_on_the_cluster(
    nodes: Nodes, phantom: Path, tmp_path: Path
) -> None:
    names = ["--label_names", "background", "head", "tail"]
    given = [
        "evaluate",
        "--predictions",
        str(phantom / "labelsTr"),
        "--labels",
        str(phantom),
        *names,
    ]
    for way, address in (("alone", None), ("many", nodes.address)):
        output = ["--output", str(tmp_path / f"{way}.json")]
        code, told = finished(start([*given, *output], address=address))
        assert code == 0, told
    assert (tmp_path / "alone.json").read_bytes() == (tmp_path / "many.json").read_bytes()
    plan = run_script("plan", phantom, "--output", tmp_path / "plan.json", "--num_workers", 1)
    assert plan.returncode == 0, plan.stderr
    for way, address in (("alone", None), ("many", nodes.address)):
        given = ["prepare", str(phantom), "-c", str(tmp_path / "plan.json")]
        code, told = finished(
            start([*given, "--prepared_dir", str(tmp_path / way)], address=address)
        )
        assert code == 0, told
    arrays = sorted(path.name for path in (tmp_path / "alone").glob("*.npy"))
    assert arrays
    for name in arrays:
        assert (tmp_path / "alone" / name).read_bytes() == (tmp_path / "many" / name).read_bytes()
