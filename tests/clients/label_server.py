"""MONAI Label as a process, and the requests that 3D Slicer and OHIF make of it."""

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest
from conftest import ROOT

LABEL = ROOT / ".venv-label"
PATCHES = Path(__file__).with_name("label_python")
"""On the PYTHONPATH of the server and of the processes that it starts, see docs/clients.md."""

START_TIMEOUT_S = 60
REQUEST_TIMEOUT_S = 300


class LabelServer:
    """A server of some bundles.

    Args:
        folder: its own folder.
        bundles: packages.
        studies: a folder of images, or the address of a DICOMweb server.
        variables: further environment variables.
    """

    def __init__(
        self,
        folder: Path,
        bundles: Sequence[Path],
        studies: Path | str,
        variables: Mapping[str, str] | None = None,
    ) -> None:
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
            **(variables or {}),
        }
        download = ["apps", "--download", "--name", "monaibundle", "--output", str(folder / "apps")]
        self._run(["monailabel", *download])
        for bundle in bundles:
            shutil.copytree(bundle, self.app / "model" / bundle.name)
        self._process = self._start(str(studies))

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

    def infer(
        self, model: str, image: str, target: Path, output: str = "image", **params: Any
    ) -> Path:
        """Ask for the mask of an image of the studies, or ``session_id=...`` for that of a session, and save it."""
        source = image if "=" in image else f"image={image}"
        path = f"/infer/{model}?{source}&output={output}"
        target.write_bytes(self._request(path, form({"device": "cpu", **params})))
        return target

    def refusal(self, model: str, image: str, **params: Any) -> tuple[int, str]:
        """The status and the text of the answer to a request that fails."""
        with pytest.raises(HTTPError) as info:
            self.infer(model, image, self.folder / "refused", **params)
        return info.value.code, info.value.read().decode()

    def upload(self, path: str, params: Mapping[str, Any], **files: Path) -> dict[str, Any]:
        """Send files by PUT."""
        return json.loads(self._request(path, form(params, **files), "PUT"))

    def remove_image(self, image: str) -> None:
        """Remove an image from the studies."""
        self._request(f"/datastore/image?id={image}", method="DELETE")

    def train(self, model: str, run_sync: bool = True, **params: Any) -> None:
        """Train and wait for the end: in the server, or in a process that it starts, as the clients do."""
        request = {"device": "cpu", "multi_gpu": False, "pretrained": True, **params}
        self._post(f"/train/{model}?run_sync={run_sync}", request)
        if not run_sync:
            self._wait_for("/train/")

    def batch_infer(self, model: str, run_sync: bool, **params: Any) -> None:
        """Predict the images of the studies and save their masks there; wait for the end."""
        request = {"device": "cpu", "multi_gpu": False, **params}
        self._post(f"/batch/infer/{model}?run_sync={run_sync}", request)
        if not run_sync:
            self._wait_for("/batch/infer")

    def _post(self, path: str, request: Mapping[str, Any]) -> None:
        self._request(path, (json.dumps(request).encode(), "application/json"))

    def _wait_for(self, path: str) -> None:
        begun = time.monotonic()
        task: dict[str, Any] = {}
        while time.monotonic() - begun < REQUEST_TIMEOUT_S:
            task = json.loads(self._request(path))
            if task["status"] not in ("SUBMITTED", "RUNNING"):
                break
            time.sleep(0.5)
        assert task["status"] == "DONE", task

    def stop(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.wait(timeout=30)

    def _start(self, studies: str) -> subprocess.Popen[bytes]:
        command = ["monailabel", "start_server"]
        command += ["--app", str(self.app), "--studies", studies]
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

    def _request(
        self, path: str, data: tuple[bytes, str] | None = None, method: str | None = None
    ) -> bytes:
        body, kind = data or (None, "")
        headers = {"Content-Type": kind} if kind else {}
        request = urllib.request.Request(self.url + path, body, headers, method=method)  # noqa: S310 - our own URL
        with urllib.request.urlopen(request, timeout=REQUEST_TIMEOUT_S) as answer:  # noqa: S310
            return answer.read()


def labelled_studies(folder: Path, dataset: Path) -> Path:
    """A folder of studies of the images of a data set, with their labels."""
    (folder / "labels" / "final").mkdir(parents=True)
    for image in (dataset / "imagesTr").iterdir():
        shutil.copy(image, folder)
        shutil.copy(dataset / "labelsTr" / image.name, folder / "labels" / "final")
    return folder


def form(params: Mapping[str, Any], **files: Path) -> tuple[bytes, str]:
    """The body and the content type of a form of JSON parameters and files."""
    mark = uuid.uuid4().hex
    parts = [b'name="params"\r\n\r\n' + json.dumps(params).encode()]
    for name, path in files.items():
        head = f'name="{name}"; filename="{path.name}"\r\n\r\n'
        parts.append(head.encode() + path.read_bytes())
    begin = f"--{mark}\r\nContent-Disposition: form-data; ".encode()
    body = b"".join(begin + part + b"\r\n" for part in parts) + f"--{mark}--\r\n".encode()
    return body, f"multipart/form-data; boundary={mark}"


def free_port() -> int:
    """A port that nobody listens to."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
