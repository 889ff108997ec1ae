"""Command lines of the bundle, and processes that end and are stopped like trainings."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dynunet_bundle.cross_validation.commands import (
    ProcessRunner,
    bundle_command,
    status_content,
    training_command,
)

BUNDLE = Path("/some/bundle")
SETTINGS = {"fold": 2, "ckpt_dir": Path("/my runs/models")}


def test_one_process() -> None:
    command = training_command(BUNDLE, [Path("/a b/task.json")], SETTINGS, ["--epochs", "3"])
    assert command[:5] == [sys.executable, "-m", "monai.bundle", "run", "training"]
    values = dict(zip(command[5::2], command[6::2], strict=True))
    assert values == {
        "--config_file": '["/some/bundle/configs/train.json", "/a b/task.json"]',
        "--bundle_root": "/some/bundle",
        "--fold": "2",
        "--ckpt_dir": "/my runs/models",
        "--epochs": "3",
    }


def test_several_processes_get_the_overlay_for_them_last() -> None:
    command = training_command(BUNDLE, [Path("/task.json")], {}, (), ["--nproc_per_node=2"])
    at = command.index("torch.distributed.run")
    assert command[: at + 2] == [
        *("env", "-u", "SLURM_JOB_ID", sys.executable, "-m", "torch.distributed.run"),
        "--nproc_per_node=2",
    ]
    assert json.loads(command[command.index("--config_file") + 1]) == [
        "/some/bundle/configs/train.json",
        "/task.json",
        "/some/bundle/configs/multi_gpu_train.json",
    ]


def test_overrides_of_the_user_come_last() -> None:
    command = bundle_command("evaluating", BUNDLE, ["train.json"], {"amp": True}, ["--amp", "0"])
    assert command[-4:] == ["--amp", "True", "--amp", "0"]


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def stopped(status: Path) -> str:
    return f'from pathlib import Path; Path({str(status)!r}).write_text(\'{{"state": "stopped"}}\')'


@pytest.mark.parametrize(("ends_with", "code"), [(0, 0), (1, 1), (2, 2), (3, 1), (75, 75)])
def test_exit_codes_are_those_of_a_training(ends_with: int, code: int) -> None:
    with ProcessRunner() as runner:
        assert runner.run(python(f"raise SystemExit({ends_with})")) == code


def test_a_process_that_was_killed_has_failed() -> None:
    with ProcessRunner() as runner:
        assert runner.run(python("import os; os.kill(os.getpid(), 9)")) == 1


def test_a_stop_under_torchrun_is_known_by_the_status(tmp_path: Path) -> None:
    status = tmp_path / "status.json"
    with ProcessRunner() as runner:
        assert runner.run(python(f"{stopped(status)}; raise SystemExit(1)"), status) == 75
        # the next one fails before it writes anything
        assert runner.run(python("raise SystemExit(1)"), status) == 1
        assert runner.run(python("raise SystemExit(0)"), status) == 0


PROGRAM = """
import signal, sys, time
from pathlib import Path
def note(number, frame):
    Path(sys.argv[1]).write_text(signal.Signals(number).name)
    raise SystemExit(int(sys.argv[2]))
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
    signal.signal(number, note)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("sent", "received"), [("SIGTERM", "SIGTERM"), ("SIGINT", "SIGINT"), ("SIGUSR1", "SIGTERM")]
)
@pytest.mark.parametrize(("ends_with", "code"), [(75, 75), (1, 75), (0, 0), (2, 2)])
def test_signals_reach_the_command(
    tmp_path: Path, sent: str, received: str, ends_with: int, code: int
) -> None:
    note = tmp_path / "note"
    driver = (
        "import sys; from dynunet_bundle.cross_validation.commands import ProcessRunner\n"
        "with ProcessRunner() as runner:\n"
        f"    code = runner.run({python(PROGRAM)!r} + [{str(note)!r}, {str(ends_with)!r}])\n"
        "print(code, runner.signal)"
    )
    process = subprocess.Popen(python(driver), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(getattr(signal, sent))
    assert process.stdout.read() == f"{code} {sent}\n"
    assert note.read_text() == received


def test_between_commands_a_signal_ends_this_process() -> None:
    with pytest.raises(SystemExit) as caught, ProcessRunner():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)
    assert caught.value.code == 75


def test_a_signal_while_the_command_is_being_started_is_not_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real: Callable[..., subprocess.Popen[bytes]] = subprocess.Popen

    def slow(command: list[str], **keywords: bool) -> subprocess.Popen[bytes]:
        process = real(command, **keywords)
        os.kill(os.getpid(), signal.SIGTERM)
        return process

    monkeypatch.setattr(subprocess, "Popen", slow)
    with ProcessRunner() as runner:
        assert runner.run(python("import time; time.sleep(60)")) == 75


def test_signals_are_as_before_afterwards() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with ProcessRunner() as runner:
        runner.run(python("pass"))
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    assert threading.current_thread() is threading.main_thread()


@pytest.mark.parametrize("content", ["", "{", "[]", '"finished"'])
def test_a_status_that_cannot_be_read_says_nothing(tmp_path: Path, content: str) -> None:
    path = tmp_path / "status.json"
    assert status_content(path) == {}
    path.write_text(content)
    assert status_content(path) == {}
