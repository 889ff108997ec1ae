"""The sbatch script: its directives, its handling of signals, and that its command really trains in two processes.

``srun`` and ``scontrol`` are stand-ins in a separate folder: the first runs its command here, the second records its
arguments.
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import BUNDLE, ROOT, TINY, run_script

from dynunet_bundle.cross_validation.slurm import SlurmJob, sbatch_script
from dynunet_bundle.errors import ConfigError

SRUN = """#!/bin/bash
while [[ "$1" == --* ]]; do shift; done
exec "$@"
"""
SCONTROL = """#!/bin/bash
if [ "$1" = show ]; then echo localhost; else echo "$@" >> "$NOTES"; fi
"""
TRAINING = """#!/bin/bash
# a training that lasts until a signal comes, or takes what it does from the environment
end() { eval "$ON_SIGNAL"; exit 1; }
trap end USR1
touch "$NOTES.running"
eval "$DOES"
while :; do sleep 0.05; done
"""
STOPPED = 'mkdir -p "$RUN"; echo \'{"state": "stopped"}\' > "$RUN/status.json"'


@pytest.fixture
def job(tmp_path: Path) -> SlurmJob:
    return SlurmJob(BUNDLE, tmp_path / "data", tmp_path / "job", gpus_per_node=2)


def documented_shell(name: str) -> list[str]:
    text = (ROOT / "docs" / name).read_text()
    return [block.split("```")[0] for block in text.split("```bash\n")[1:]]


def executable(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def start(script: str, folder: Path, srun: str, **variables: str) -> subprocess.Popen[str]:
    """Run a script as SLURM does, in a new session; its output goes to ``folder/log``."""
    executable(folder / "bin" / "srun", srun)
    executable(folder / "bin" / "scontrol", SCONTROL)
    (folder / "job.sh").write_text(script)
    with (folder / "log").open("a") as log:
        return subprocess.Popen(
            ["bash", str(folder / "job.sh")],
            env={
                **os.environ,
                "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
                "NOTES": str(folder / "notes"),
                "SLURM_JOB_ID": "77",
                "SLURM_JOB_NODELIST": "node[1-2]",
                "OMP_NUM_THREADS": "1",
                **variables,
            },
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            text=True,
        )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], log: Path) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("does", "on_signal", "number", "code", "is_queued"),
    [
        ("exit 0", "", None, 0, False),
        ("exit 1", "", None, 1, False),
        ("exit 2", "", None, 2, False),
        ("exit 75", "", None, 75, True),
        (f"{STOPPED}; exit 1", "", None, 75, True),
        ("", STOPPED, signal.SIGUSR1, 75, True),
        ("", "", signal.SIGUSR1, 75, True),
        ("", "exit 0", signal.SIGUSR1, 0, False),
        ("", STOPPED, signal.SIGTERM, 75, False),
    ],
    ids=[
        "finished",
        "failed",
        "bad input",
        "stopped by itself",
        "stopped under torchrun",
        "time limit",
        "time limit before the first iteration",
        "time limit at the end",
        "cancelled",
    ],
)
def test_how_a_job_ends(
    job: SlurmJob,
    tmp_path: Path,
    does: str,
    on_signal: str,
    number: signal.Signals | None,
    code: int,
    is_queued: bool,
) -> None:
    variables = {"DOES": does, "ON_SIGNAL": on_signal, "RUN": str(job.out / "run")}
    process = start(sbatch_script(job), tmp_path, TRAINING, **variables)
    if number is not None:
        wait_for((tmp_path / "notes.running").exists, process, tmp_path / "log")
        process.send_signal(number)
    assert process.wait(60) == code
    notes = tmp_path / "notes"
    assert (notes.read_text().split() if notes.exists() else []) == ["requeue", "77"] * is_queued


def test_an_old_stop_does_not_make_a_failure_come_back(job: SlurmJob, tmp_path: Path) -> None:
    status = job.out / "run" / "status.json"
    status.parent.mkdir(parents=True)
    status.write_text('{"state": "stopped"}')
    os.utime(status, (1, 1))
    process = start(sbatch_script(job), tmp_path, TRAINING, DOES="exit 1", ON_SIGNAL="")
    assert process.wait(60) == 1
    assert not (tmp_path / "notes").exists()


def test_the_script_is_known_to_the_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    """slurm_job.sh is the script of this job; change it together with the template."""
    monkeypatch.setattr("sys.executable", "python")
    job = SlurmJob(
        Path("/repo/bundle"),
        Path("/my data"),
        Path("/out/job"),
        overlays=(Path("/it's/task.json"),),
        nodes=2,
        gpus_per_node=4,
        directives=("--partition=gpu",),
        overrides=("--epochs", "7"),
    )
    expected = Path(__file__).with_name("slurm_job.sh").read_bytes()
    assert sbatch_script(job).encode() == expected


def test_what_the_script_asks_for(tmp_path: Path) -> None:
    overlay = tmp_path / "it's a task.json"
    overlay.write_text("{}")
    done = run_script(
        "slurm",
        *("--nodes", 4, "--gpus_per_node", 8, "--cpus_per_process", 6, "--time", "12:00:00"),
        *("--dataset_dir", tmp_path / "my data", "--output_dir", tmp_path / "job"),
        *("--config_file", overlay, "--epochs", 7, "--sbatch=--partition=gpu", "--max_restarts", 2),
        *("--numa_binding", "exclusive"),
    )
    assert done.returncode == 0, done.stderr
    directives = [line[8:] for line in done.stdout.splitlines() if line.startswith("#SBATCH ")]
    assert directives == [
        "--job-name=job",
        "--nodes=4",
        "--ntasks-per-node=1",
        "--gpus-per-node=8",
        "--cpus-per-task=48",
        "--time=12:00:00",
        "--signal=B:USR1@120",
        "--requeue",
        "--open-mode=append",
        f"--output={tmp_path / 'job'}/slurm-%j.log",
        "--partition=gpu",
    ]
    # what srun would be given, word by word
    process = start(done.stdout, tmp_path, '#!/bin/bash\nprintf "%s\\n" "$@"\n')
    assert process.wait(60) == 0
    words = (tmp_path / "log").read_text().splitlines()
    for word in (
        "--nnodes=4",
        "--nproc_per_node=8",
        "--max-restarts=2",
        "--numa-binding=exclusive",
        "--rdzv_id=77",
        "--rdzv_endpoint=localhost:29500",
    ):
        assert word in words
    values = dict(zip(words, words[1:], strict=False))
    configs = [BUNDLE / "configs/train.json", overlay, BUNDLE / "configs/multi_gpu_train.json"]
    assert json.loads(values["--config_file"]) == list(map(str, configs))
    assert values["--dataset_dir"] == str(tmp_path / "my data")
    assert values["--epochs"] == "7"
    assert (tmp_path / "job").is_dir()


def test_a_job_for_cpus_asks_for_no_gpus(job: SlurmJob) -> None:
    script = sbatch_script(SlurmJob(job.bundle, job.dataset_dir, job.out, (), 1, 0, 2))
    assert "gpus" not in script.split("set -u")[0]
    assert "--nproc_per_node=2" in script


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nodes": 0}, "nodes is 0"),
        ({"gpus_per_node": 0}, "processes_per_node is 0"),
        ({"gpus_per_node": 2, "processes_per_node": 3}, "3 processes"),
        ({"gpus_per_node": 0, "processes_per_node": 2, "numa_binding": "node"}, "--numa_binding"),
        ({"directives": ("--comment=a b",)}, "--comment=a b"),
        ({"time": "1:00\n#SBATCH --evil"}, "#SBATCH line"),
        ({"out": Path("/my runs")}, "/my runs"),
    ],
)
def test_what_cannot_be_a_job(job: SlurmJob, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        sbatch_script(SlurmJob(**{**vars(job), **changes}))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--epocs", "3"), 'did you mean "epochs"'),
        (("--ckpt_dir", "x"), "ckpt_dir is set by --output_dir"),
        (("--config_file", "none.json"), "none.json does not exist"),
    ],
)
def test_the_script_refuses_bad_input_in_one_line(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = run_script(
        "slurm", "--dataset_dir", tmp_path, "--output_dir", tmp_path / "job", *arguments
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and message in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("name", ["cross_validation.md", "cluster.md"])
def test_the_shell_of_the_documents_parses(name: str) -> None:
    blocks = documented_shell(name)
    assert blocks
    for block in blocks:
        done = subprocess.run(
            ["bash", "-n"], input=block, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("does", "sends", "code", "is_queued"),
    [("exit 0", False, 0, False), ("exit 2", False, 2, False), ("", True, 75, True)],
    ids=["finished", "bad input", "time limit"],
)
def test_the_documented_array(
    tmp_path: Path, does: str, sends: bool, code: int, is_queued: bool
) -> None:
    script = next(block for block in documented_shell("cross_validation.md") if "array" in block)
    program = TRAINING.replace("trap end USR1", "trap end TERM").replace("exit 1", "exit 75")
    executable(tmp_path / "bin" / "dynunet-bundle", program)
    variables = {
        "DOES": does,
        "ON_SIGNAL": "",
        "SLURM_ARRAY_JOB_ID": "70",
        "SLURM_ARRAY_TASK_ID": "3",
    }
    process = start(script, tmp_path, SRUN, **variables)
    if sends:
        wait_for((tmp_path / "notes.running").exists, process, tmp_path / "log")
        process.send_signal(signal.SIGUSR1)
    assert process.wait(60) == code
    notes = tmp_path / "notes"
    assert (notes.read_text().split() if notes.exists() else []) == ["requeue", "70_3"] * is_queued


@pytest.mark.slow
def test_a_job_that_is_stopped_and_loses_a_process_trains_to_its_end(
    phantom: Path, tmp_path: Path
) -> None:
    """Two processes of torchrun: the time limit is reached in the second epoch, and later one process is killed."""
    out = tmp_path / "job"
    settings = {**TINY, "iterations_per_epoch": 40, "val_interval": 2}
    done = run_script(
        "slurm",
        *("--gpus_per_node", 0, "--processes_per_node", 2),
        *("--dataset_dir", phantom, "--output_dir", out),
        *(text for name, value in settings.items() for text in (f"--{name}", str(value))),
    )
    assert done.returncode == 0, done.stderr
    # another test may be using the port
    script = done.stdout.replace("$first:29500", "$first:0")
    log = tmp_path / "log"

    def status() -> dict[str, Any]:
        path = out / "run" / "status.json"
        return json.loads(path.read_text()) if path.is_file() else {"state": None, "pid": None}

    process = start(script, tmp_path, SRUN)
    wait_for((out / "models" / "checkpoint_last.pt").is_file, process, log)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(120) == 75, log.read_text()
    stopped = status()
    assert (stopped["state"], stopped["world_size"]) == ("stopped", 2)
    assert 40 <= stopped["iteration"] < 80
    assert (tmp_path / "notes").read_text().split() == ["requeue", "77"]

    process = start(script, tmp_path, SRUN)
    wait_for(lambda: status()["state"] == "running", process, log)
    os.kill(status()["pid"], signal.SIGKILL)
    assert process.wait(240) == 0, log.read_text()
    assert (status()["state"], status()["epoch"]) == ("finished", 2)
    assert (out / "models" / "model.pt").is_file()
    # it resumed from the same place twice
    done_of_second = stopped["iteration"] - 40
    place = f"resuming after {f'iteration {done_of_second} of 40' if done_of_second else 'epoch 1'}"
    assert log.read_text().count(place) == 2
    assert (tmp_path / "notes").read_text().split() == ["requeue", "77"]
