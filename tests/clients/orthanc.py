"""Orthanc as a process: a small PACS with a DICOMweb interface."""

import json
import os
import subprocess
import time
import urllib.request
from pathlib import Path

from conftest import ROOT
from label_server import free_port

DICOMWEB = ROOT / ".dicomweb"
"""What ``setup_dicomweb.sh`` makes."""

ROOTS = (DICOMWEB, Path("/"))
"""Folders that may have Orthanc, as its packages of Debian lay it out."""

PROGRAM = "usr/sbin/Orthanc"
PLUGIN = "usr/share/orthanc/plugins/libOrthancDicomWeb.so"
START_TIMEOUT_S = 30


def orthanc_root() -> Path | None:
    """The folder that has Orthanc and its plugin, or None."""
    return next(
        (root for root in ROOTS if all((root / p).exists() for p in (PROGRAM, PLUGIN))), None
    )


class Orthanc:
    """A store on this machine without a login, with its data in a folder."""

    def __init__(self, folder: Path, root: Path) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        settings = {
            "StorageDirectory": str(folder),
            "IndexDirectory": str(folder),
            "HttpPort": int(self.url.rpartition(":")[2]),
            "DicomServerEnabled": False,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "Plugins": [str(root / PLUGIN)],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        }
        config = folder / "orthanc.json"
        config.write_text(json.dumps(settings), encoding="utf-8")
        self._log = folder / "orthanc.log"
        environment = dict(os.environ)
        if root == DICOMWEB:
            environment["LD_LIBRARY_PATH"] = str(root / "usr/lib/x86_64-linux-gnu")
            environment["DCMDICTPATH"] = str(root / "usr/share/libdcmtk17/dicom.dic")
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [str(root / PROGRAM), str(config)], env=environment, stdout=log, stderr=log
            )

    @property
    def dicomweb(self) -> str:
        """Address of the DICOMweb interface."""
        return f"{self.url}/dicom-web"

    def wait(self) -> None:
        """Wait until it answers."""
        begun = time.monotonic()
        while time.monotonic() - begun < START_TIMEOUT_S and self._process.poll() is None:
            try:
                self.series()
                return
            except OSError:
                time.sleep(0.2)
        raise AssertionError(f"Orthanc does not answer\n{self._log.read_text()[-3000:]}")

    def store(self, folder: Path) -> None:
        """Send the files of a folder."""
        for path in sorted(folder.iterdir()):
            self._request("/instances", path.read_bytes())

    def series(self, **tags: str) -> list[str]:
        """SeriesInstanceUID of the series with these values of tags."""
        query = "&".join(f"{name}={value}" for name, value in tags.items())
        found = json.loads(self._request(f"/dicom-web/series?{query}"))
        return [uid for item in found for uid in item["0020000E"]["Value"]]

    def instances(self, series: str) -> list[bytes]:
        """The files of a series."""
        query = {"Level": "Instance", "Query": {"SeriesInstanceUID": series}}
        names = json.loads(self._request("/tools/find", json.dumps(query).encode()))
        return [self._request(f"/instances/{name}/file") for name in names]

    def stop(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.wait(timeout=30)

    def _request(self, path: str, data: bytes | None = None) -> bytes:
        request = urllib.request.Request(self.url + path, data)  # noqa: S310 - our own URL
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return answer.read()
