"""Messages that a user cannot act on are hidden and counted; all others are shown."""

import logging
import subprocess
import sys
import warnings
from collections.abc import Iterator

import pytest
from conftest import BUNDLE

from dynunet_bundle.configs.quiet import (
    MONAI_LOGGERS,
    TOLD,
    VERBOSE,
    HiddenMessages,
    hidden_noise,
    hide_noise,
    tell_hidden,
)


@pytest.fixture
def hidden() -> Iterator[HiddenMessages]:
    show = warnings.showwarning
    handlers = {name: list(logging.getLogger(name).handlers) for name in MONAI_LOGGERS}
    yield HiddenMessages()
    warnings.showwarning = show
    for name, before in handlers.items():
        logging.getLogger(name).handlers[:] = before


def test_noise_is_counted_and_all_else_is_shown(
    hidden: HiddenMessages, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(hidden, "_show", lambda message, *_, **__: told.append(str(message)))
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = hidden._warn
        warnings.warn("parsing config_file x: ...", UserWarning, stacklevel=1)
        warnings.warn("the disk is old", UserWarning, stacklevel=1)
    assert (told, hidden.count) == (["the disk is old"], 1)

    def shown(level: int, text: str) -> bool:
        return hidden.filter(logging.LogRecord("monai", level, "f", 1, text, None, None))

    assert not shown(logging.INFO, "> epochs: 3")
    assert not shown(logging.WARNING, "Not all config files are in configs.")
    assert shown(logging.ERROR, "> broken")
    assert shown(logging.INFO, "epoch 1/2")
    assert hidden.count == 3


def test_that_messages_are_hidden_is_told_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, hidden: HiddenMessages
) -> None:
    monkeypatch.setattr("dynunet_bundle.configs.quiet.hide_noise", lambda: hidden)
    caplog.set_level(logging.INFO)
    with hidden_noise():
        pass
    assert not caplog.records
    with pytest.raises(KeyError), hidden_noise():
        hidden.count = 2
        raise KeyError
    told = "messages of MONAI and torch are not shown; --verbose shows all"
    assert caplog.messages == [told]
    # once, before the last result; and not in the processes that a command starts
    caplog.clear()
    with hidden_noise():
        tell_hidden()
        assert caplog.messages == [told]
    assert caplog.messages == [told]
    monkeypatch.setenv(TOLD, "1")
    with hidden_noise():
        pass
    assert caplog.messages == [told]


def test_the_next_command_is_the_last_line() -> None:
    for path in (BUNDLE / "dynunet_bundle" / "commands").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert ("next_command(" in text) <= ("tell_hidden()" in text), path.name


def test_the_environment_shows_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VERBOSE, "1")
    assert hide_noise() is None


@pytest.mark.parametrize("verbose", ["", "1"])
def test_the_module_runs_monai_bundle(verbose: str) -> None:
    command = [sys.executable, "-m", "dynunet_bundle.configs.quiet", "run", "trian"]
    done = subprocess.run(
        [*command, "--config_file", "configs/train.json"],
        cwd=BUNDLE,
        env={"PYTHONPATH": str(BUNDLE), "PATH": "/usr/bin:/bin", VERBOSE: verbose},
        capture_output=True,
        text=True,
        check=False,
    )
    shown = done.stdout + done.stderr
    assert done.returncode == 2 and 'no list "trian" to run' in shown
    noise = "parsing config_file" in shown, "Setting logging properties" in shown
    assert noise == (bool(verbose),) * 2
