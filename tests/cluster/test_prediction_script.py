"""``slurm predict``: the text of the script, and its run with stand-ins for SLURM and Ray."""

import os
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest

from dynunet_bundle.commands.main import run_program
from dynunet_bundle.errors import ConfigError

SRUN = '#!/bin/bash\nwhile [[ "$1" == --* ]]; do shift; done\nexec "$@"\n'
SCONTROL = '#!/bin/bash\nif [ "$1" = show ]; then echo node1; else echo "$@" >> "$NOTES"; fi\n'
RAY = '#!/bin/bash\nprintf "%s\\n" "$@" > "$NOTES.ray"\necho "$RAY_AUTH_TOKEN" >> "$NOTES.ray"\neval "$DOES"\n'


def script_of(folder: Path, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    own = ["--nodes", "2", "--gpus_per_node", "4", "--sbatch=--partition=gpu"]
    predict = ["--input", "the images", "--model", "a.pt", "b.pt", "--mirroring"]
    output = ["--output_dir", str(folder / "masks")]
    assert run_program(["slurm", "predict", *own, *predict, *output, *words]) == 0
    return capsys.readouterr().out


def test_the_text_of_the_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = script_of(tmp_path, capsys, "--cpus_per_worker", "4")
    file = tmp_path / "predict.sh"
    file.write_text(text)
    assert subprocess.run(["bash", "-n", file], check=False).returncode == 0
    for line in ("--nodes=2", "--gpus-per-node=4", "--partition=gpu", "--signal=B:USR1@120"):
        assert f"#SBATCH {line}\n" in text
    assert "RAY_USAGE_STATS_ENABLED=0" in text and "RAY_AUTH_MODE=token" in text
    command = text[text.index("srun --kill") : text.index(" &\nprediction")]
    words = shlex.split(command)
    assert words[words.index("predict") + 1 :] == [
        *("--input", "the images", "--model", "a.pt", "b.pt", "--mirroring"),
        *("--output_dir", str(tmp_path / "masks"), "--cpus_per_worker", "4", "--ray", "auto"),
    ]
    assert "--min-nodes 2" in " ".join(words) and "--num-gpus=4" in words


@pytest.mark.parametrize(
    ("does", "number", "code", "is_queued"),
    [
        ("exit 0", None, 0, False),
        ("exit 1", None, 1, False),
        ("exit 75", None, 75, True),
        ("sleep 60 & wait", signal.SIGUSR1, 75, True),
        ("sleep 60 & wait", signal.SIGTERM, 143, False),
    ],
    ids=["finished", "a case failed", "stopped", "time limit", "cancelled"],
)
def test_how_a_prediction_job_ends(
    does: str,
    number: int | None,
    code: int,
    is_queued: bool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in {"srun": SRUN, "scontrol": SCONTROL, "ray": RAY}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    script = script_of(tmp_path, capsys).replace("export PATH=", f"export PATH={folder}:")
    notes = tmp_path / "notes"
    environment = {"NOTES": str(notes), "SLURM_JOB_ID": "77", "SLURM_JOB_NODELIST": "node[1-2]"}
    process = subprocess.Popen(
        ["bash", "-c", script], env={**os.environ, **environment, "DOES": does}
    )
    ray = Path(f"{notes}.ray")
    if number is not None:
        end = time.monotonic() + 30
        while not (ray.is_file() and len(ray.read_text().split()) > 5):
            assert time.monotonic() < end
            time.sleep(0.05)
        time.sleep(0.2)
        process.send_signal(number)
    assert process.wait(30) == code
    assert notes.is_file() == is_queued
    words = ray.read_text().split("\n")
    assert words[:3] == ["symmetric-run", "--address", "node1:20077"]
    assert len(words[-2]) == 64


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--ray", "auto"], "Leave --ray out"),
        (["--num_parts", "2", "--part_id", "0"], "no --num_parts"),
        (["--sbatch=--comment=a b"], "not valid in an #SBATCH line"),
    ],
)
def test_what_the_script_cannot_do_is_refused(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match=message):
        script_of(tmp_path, capsys, *words)


@pytest.mark.parametrize("option", ["workers", "gpus_per_worker", "cpus_per_worker"])
def test_options_of_workers_need_a_cluster(option: str, tmp_path: Path) -> None:
    words = ["predict", "-i", str(tmp_path), "-o", str(tmp_path / "out"), f"--{option}", "1"]
    with pytest.raises(ConfigError, match=f"--{option} is for a cluster"):
        run_program(words)


def test_parts_and_a_cluster_are_two_ways(tmp_path: Path) -> None:
    words = ["predict", "-i", str(tmp_path), "-o", str(tmp_path / "out"), "--ray", "local"]
    with pytest.raises(ConfigError, match="--num_parts is for jobs without a cluster"):
        run_program([*words, "--num_parts", "2", "--part_id", "0"])
