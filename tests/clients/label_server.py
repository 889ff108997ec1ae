"""MONAI Label as a process, and the requests that 3D Slicer and OHIF make of it."""

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from conftest import ROOT

LABEL = ROOT / ".venv-label"
PATCHES = Path(__file__).with_name("label_python")
"""On the PYTHONPATH of the server and of the processes that it starts, see docs/clients.md."""

START_TIMEOUT_S = 60
REQUEST_TIMEOUT_S = 300


class LabelServer:
    """A server of some bundles, with the labelled images of a data set as its studies."""

    def __init__(self, folder: Path, bundles: Sequence[Path], dataset: Path) -> None:
        self.folder = folder
        self.app = folder / "apps" / "monaibundle"
        self.log_file = folder / "server.log"
        self.url = f"http://127.0.0.1:{free_port()}"
        self.names = [bundle.name for bundle in bundles]
        self._environment = {
            **os.environ,
            "PATH": f"{LABEL / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": str(PATCHES),
            "OMP_NUM_THREADS": "1",
            # sessions, and copies of the images of a DICOMweb server
            "HOME": str(folder),
        }
        download = ["apps", "--download", "--name", "monaibundle", "--output", str(folder / "apps")]
        self._run(["monailabel", *download])
        for bundle in bundles:
            shutil.copytree(bundle, self.app / "model" / bundle.name)
        studies = folder / "studies"
        (studies / "labels" / "final").mkdir(parents=True)
        for image in (dataset / "imagesTr").iterdir():
            shutil.copy(image, studies)
            shutil.copy(dataset / "labelsTr" / image.name, studies / "labels" / "final")
        self._process = self._start(studies)

    @property
    def log(self) -> str:
        """What the server has said."""
        return self.log_file.read_text()

    def model(self, name: str) -> Path:
        """The folder of a bundle that the server uses."""
        return self.app / "model" / name

    def wait(self) -> float:
        """Seconds until the server answers; the log tells why where it does not."""
        begun = time.monotonic()
        while time.monotonic() - begun < START_TIMEOUT_S:
            if self._process.poll() is not None:
                break
            try:
                self.info()
                return time.monotonic() - begun
            except OSError:
                time.sleep(0.5)
        raise AssertionError(f"the server does not answer\n{self.log[-3000:]}")

    def info(self) -> dict[str, Any]:
        """Models, labels, trainers."""
        return json.loads(self._request("/info/"))

    def infer(self, model: str, image: str, target: Path, **params: Any) -> Path:
        """Ask for the mask of an image of the studies and save it."""
        boundary = uuid.uuid4().hex
        form = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="params"\r\n\r\n'
            f"{json.dumps({'device': 'cpu', **params})}\r\n--{boundary}--\r\n"
        )
        answer = self._request(
            f"/infer/{model}?image={image}&output=image",
            form.encode(),
            f"multipart/form-data; boundary={boundary}",
        )
        target.write_bytes(answer)
        return target

    def train(self, model: str, **params: Any) -> Any:
        """Train and wait for the end."""
        request = {"device": "cpu", "multi_gpu": False, "pretrained": True, **params}
        return json.loads(
            self._request(
                f"/train/{model}?run_sync=true", json.dumps(request).encode(), "application/json"
            )
        )

    def stop(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.wait(timeout=30)

    def _start(self, studies: Path) -> subprocess.Popen[bytes]:
        command = ["monailabel", "start_server"]
        command += ["--app", str(self.app), "--studies", str(studies)]
        # with "ngc" a folder that is there is taken as it is; else the server asks GitHub for the list of all bundles
        command += ["--conf", "models", ",".join(self.names), "--conf", "zoo_source", "ngc"]
        command += ["--conf", "sam2", "false", "--host", "127.0.0.1"]
        command += ["--port", self.url.rpartition(":")[2]]
        with self.log_file.open("wb") as log:
            return subprocess.Popen(
                command, cwd=self.folder, env=self._environment, stdout=log, stderr=log
            )

    def _run(self, command: Sequence[str]) -> None:
        done = subprocess.run(
            command,
            env=self._environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    def _request(self, path: str, data: bytes | None = None, kind: str = "") -> bytes:
        headers = {"Content-Type": kind} if kind else {}
        request = urllib.request.Request(self.url + path, data, headers)  # noqa: S310 - our own URL
        with urllib.request.urlopen(request, timeout=REQUEST_TIMEOUT_S) as answer:  # noqa: S310
            return answer.read()


def free_port() -> int:
    """A port that nobody listens to."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
