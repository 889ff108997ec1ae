"""A bundle folder for the checks: its files, a synthetic data set for it, and the results of its own code."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from dynunet_bundle.configs.overrides import CONFIG_SCHEMA
from dynunet_bundle.delivery.verify.data import make_dataset
from dynunet_bundle.errors import ConfigError
from dynunet_bundle.files import read_json
from dynunet_bundle.planning.plan import plan_from
from dynunet_bundle.shapes import TEXT, Schema, by_name, list_of

PROBE = Path(__file__).with_name("probe.py")
ANSWER_SCHEMA = by_name(list_of(TEXT))
"""Schema of the probe's output: faults by kind."""

TIMEOUT_S = 3600
MAX_LINES = 3


class BundleProblem(NamedTuple):
    """What is wrong, including the offending value, and what to do."""

    message: str
    remedy: str


class SkippedCheck(Exception):  # noqa: N818 - not an error
    """A check does not apply; the text says why."""


class BundleFolder:
    """A bundle and a scratch folder that exists within the ``with`` block. Nothing is written to the bundle.

    Args:
        path: the bundle folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self._scratch = tempfile.TemporaryDirectory()
        self.scratch = Path(self._scratch.name)

    def __enter__(self) -> "BundleFolder":
        """Keep the scratch folder until the block ends."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Remove the scratch folder."""
        self._scratch.cleanup()

    def config(self, name: str, schema: Schema = CONFIG_SCHEMA) -> dict[str, Any]:
        """Content of ``configs/NAME``.

        Args:
            name: name of the file.
            schema: the shape of its content.

        Raises:
            SkippedCheck: if it is missing, which the check "files" reports.
            ConfigError: if it is malformed.
        """
        path = self.require(f"configs/{name}")
        content: dict[str, Any] = read_json(path, ConfigError, schema)
        return content

    def require(self, name: str) -> Path:
        """Path of a file of the bundle.

        Raises:
            SkippedCheck: if it is missing.
        """
        path = self.path / name
        if not path.is_file():
            raise SkippedCheck(f"{name} is missing")
        return path

    @cached_property
    def dataset(self) -> Path:
        """A synthetic data set that fits the bundle's plan."""
        plan = plan_from(self.config("inference.json"))
        return make_dataset(self.scratch / "data", plan.overlay())

    @cached_property
    def probed(self) -> dict[str, list[str]]:
        """Faults of imports, logging, properties and weights, found by the bundle's own code; see ``probe.py``."""
        answer = self.scratch / "probe.json"
        command = ["-c", PROBE.read_text(encoding="utf-8"), str(answer), str(self.dataset)]
        done = self.python(*command, str(self.scratch / "probe"))
        if done.returncode or not answer.is_file():
            raise ConfigError(
                f"the bundle cannot be opened: {last_words(done)}. Correct its configs or its code."
            )
        return dict(read_json(answer, ConfigError, ANSWER_SCHEMA))

    def python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run Python in the bundle folder, so that its own package is imported, without a GPU."""
        environment = {
            **os.environ,
            "CUDA_VISIBLE_DEVICES": "",
            "PYTHONDONTWRITEBYTECODE": "1",
            "MONAI_FAIL_ON_DUPLICATE_CONFIG": "1",
        }
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "PYTHONPATH"):
            environment.pop(name, None)
        return subprocess.run(  # noqa: S603 - the interpreter itself, without a shell
            [sys.executable, *arguments],
            cwd=self.path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )

    def monai(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run ``python -m monai.bundle`` in the bundle folder."""
        return self.python("-m", "monai.bundle", *arguments)


def last_words(done: subprocess.CompletedProcess[str]) -> str:
    """The last lines of a process's output, where MONAI and torch put the reason of a failure."""
    lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    return " / ".join(lines[-MAX_LINES:]) or f"exit code {done.returncode} without a message"


def list_argument(texts: Sequence[int]) -> str:
    """A list in the notation of ``monai.bundle``'s command line."""
    return "[" + ",".join(map(str, texts)) + "]"
