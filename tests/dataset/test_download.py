"""Interrupted downloads and wrong or unsafe archives leave nothing; errors are one line.

A server on 127.0.0.1 plays the real one; it can cut connections, redirect, or refuse.
"""

import fcntl
import hashlib
import io
import logging
import os
import signal
import socket
import struct
import subprocess
import sys
import tarfile
import tempfile
import termios
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import monai.apps.utils
import numpy as np
import pytest
from conftest import ROOT, run_script
from monai.apps import DecathlonDataset

from dynunet_bundle.dataset import download
from dynunet_bundle.dataset.download import download_task, find_task
from dynunet_bundle.errors import ConfigError, DatasetError, OutputError

TASK = "Task04_Hippocampus"
ARCHIVE = f"{TASK}.tar"
IMAGE_BYTES = 1_000_000
CUT_AT = 400_000
PROXIES = [
    f"{kind}_proxy".upper() if upper else f"{kind}_proxy"
    for kind in ("http", "https", "all", "no")
    for upper in (False, True)
]


def tar_of(*members: tuple[str | tarfile.TarInfo, bytes]) -> bytes:
    """A tar file of contents by name, or of given members."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name) if isinstance(name, str) else name
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def data_set(seed: int, num_bytes: int = IMAGE_BYTES) -> bytes:
    """An archive like the Decathlon's, with one image of random bytes."""
    image = np.random.default_rng(seed).bytes(num_bytes)
    return tar_of((f"{TASK}/dataset.json", b"{}"), (f"{TASK}/imagesTr/a.nii.gz", image))


class Server(ThreadingHTTPServer):
    """Serves ``content`` under any path and counts what it sends.

    Attributes:
        sized: whether it tells Content-Length.
        cut_at: bytes of a response after which it cuts the connection; None for never.
        cut: how: "close" ends the stream, "reset" breaks it, "stall" goes silent.
        redirect: where it sends a client instead.
        num_requests: how many it has had.
        num_bytes: sum of the bytes of the bodies.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = data_set(0)
        self.sized = True
        self.cut_at: int | None = None
        self.cut = "close"
        self.redirect = ""
        self.status = 200
        self.released = threading.Event()
        self.forget()

    def forget(self) -> None:
        self.num_requests = 0
        self.num_bytes = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_) -> None:
        """Ignore clients that close the connection."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_) -> None:
        pass

    def do_GET(self) -> None:  # noqa: N802 - the name that http.server asks for
        server = self.server
        server.num_requests += 1
        if server.redirect:
            self.send_response(302)
            self.send_header("Location", server.redirect)
            self.end_headers()
            return
        if server.status != 200:
            self.send_error(server.status)
            return
        body = server.content
        self.send_response(200)
        if server.sized:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        cut = server.cut_at is not None and len(body) > server.cut_at
        self.wfile.write(body[: server.cut_at] if cut else body)
        server.num_bytes += min(len(body), server.cut_at) if cut else len(body)
        if cut and server.cut == "reset":
            # a reset drops what is not yet with the client
            while struct.unpack("i", fcntl.ioctl(self.connection, termios.TIOCOUTQ, bytes(4)))[0]:
                time.sleep(0.001)
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.connection.close()
        elif cut and server.cut == "stall":
            server.released.wait(60)


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.released.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The target folder of downloads, which does not exist yet."""
    return tmp_path / "data"


@pytest.fixture
def fetch(server: Server, data: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Download the server's content, with its own or a given ``md5``."""

    def run(md5: str | None = None, **arguments: Any) -> Path:
        server.forget()
        right = hashlib.md5(server.content, usedforsecurity=False).hexdigest()
        monkeypatch.setitem(DecathlonDataset.md5, TASK, md5 or right)
        return download_task(TASK, data, base_url=server.url, **arguments)

    return run


def files_in(folder: Path) -> dict[str, bytes]:
    """Content by relative path, of all files below ``folder``."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def files_of(archive: bytes) -> dict[str, bytes]:
    """Content by name, as the archive has it."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


def link(name: str, target: str, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


# --- names


@pytest.mark.parametrize("text", ["9", "09", "Task09", "task9", "Task09_Spleen", " task09_spleen "])
def test_a_task_is_known_by_number_and_by_name(text: str):
    assert find_task(text) == "Task09_Spleen"


def test_one_and_ten_are_not_mixed_up():
    assert (find_task("1"), find_task("10")) == ("Task01_BrainTumour", "Task10_Colon")


@pytest.mark.parametrize("text", ["0", "11", "", "Spleen", "Task09_Liver", "009", "-9"])
def test_an_unknown_task_lists_the_ten(text: str):
    with pytest.raises(ConfigError) as info:
        find_task(text)
    assert all(name in str(info.value) for name in DecathlonDataset.resource)
    assert len(DecathlonDataset.resource) == 10


# --- download


@pytest.mark.parametrize("keep", [False, True])
def test_a_whole_download_leaves_the_data_set_and_nothing_else(fetch, server, data, keep):
    assert fetch(keep_archive=keep) == data / TASK
    expected = files_of(server.content) | ({ARCHIVE: server.content} if keep else {})
    assert files_in(data) == expected
    assert server.num_bytes == len(server.content)
    assert {path.name for path in data.iterdir()} == {TASK} | ({ARCHIVE} if keep else set())


def test_a_second_run_says_that_it_is_there_and_does_nothing(fetch, server, data, caplog):
    fetch()
    before = {path: path.stat().st_mtime_ns for path in [data, *data.rglob("*")]}
    caplog.set_level(logging.INFO)
    assert fetch() == data / TASK
    assert server.num_requests == 0
    assert "already exists" in caplog.text
    assert {path: path.stat().st_mtime_ns for path in [data, *data.rglob("*")]} == before


@pytest.mark.parametrize("how", ["close", "reset", "stall"])
def test_an_interrupted_download_leaves_nothing_and_starts_again(
    fetch, server, data, how, monkeypatch
):
    monkeypatch.setattr(download, "TIMEOUT_S", 2.0)
    server.cut_at, server.cut = CUT_AT, how
    with pytest.raises(
        DatasetError, match=rf"cannot download .*curl -C - -o {data / ARCHIVE} {server.url}"
    ):
        fetch()
    assert not list(data.iterdir())
    server.cut_at = None
    fetch()
    assert server.num_bytes == len(server.content)
    assert files_in(data) == files_of(server.content)


def test_the_settings_of_the_process_are_as_before(fetch, server):
    before = tempfile.tempdir, socket.getdefaulttimeout()
    server.cut_at = CUT_AT
    with pytest.raises(DatasetError):
        fetch()
    assert (tempfile.tempdir, socket.getdefaulttimeout()) == before
    assert urllib.request._opener is None


def test_the_archive_comes_through_the_folder_of_the_data(fetch, server, data, monkeypatch):
    """The system's temporary folder may be too small for the archive."""
    retrieve, places = monai.apps.utils.urlretrieve, []

    def retrieve_noted(url: str, path: Path, **arguments: Any) -> Any:
        places.append(Path(path))
        return retrieve(url, path, **arguments)

    monkeypatch.setattr(monai.apps.utils, "urlretrieve", retrieve_noted)
    fetch()
    assert [place.parents[1] for place in places] == [data / f".{TASK}.work"]


def test_a_response_without_a_size_is_read_to_its_end(fetch, server, data):
    server.sized = False
    fetch()
    assert files_in(data) == files_of(server.content)


def test_a_wrong_md5_removes_the_archive(fetch, server, data, capfd):
    with pytest.raises(DatasetError, match=f"MD5 {'0' * 32} and was removed"):
        fetch(md5="0" * 32)
    assert files_in(data) == {}
    assert capfd.readouterr().out == ""  # MONAI's own lines
    fetch()
    assert server.num_requests == 1
    assert files_in(data) == files_of(server.content)


def test_an_existing_archive_is_used_if_its_md5_is_correct(fetch, server, data):
    data.mkdir()
    (data / ARCHIVE).write_bytes(server.content)
    fetch(keep_archive=True)
    assert server.num_requests == 0
    assert files_in(data) == files_of(server.content) | {ARCHIVE: server.content}


def test_a_wrong_archive_of_the_user_is_left_alone(fetch, data):
    data.mkdir()
    (data / ARCHIVE).write_bytes(b"the user's")
    with pytest.raises(DatasetError, match="curl -C - .* otherwise remove it"):
        fetch()
    assert files_in(data) == {ARCHIVE: b"the user's"}


# --- extraction


@pytest.mark.parametrize("kind", ["parent", "nested parent", "absolute", "symlink", "hard link"])
def test_a_member_that_leads_outside_is_refused(fetch, server, data, tmp_path, kind):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    bad: dict[str, list[tuple[str | tarfile.TarInfo, bytes]]] = {
        "parent": [("../evil", b"evil")],
        "nested parent": [(f"{TASK}/../../../evil", b"evil")],
        "absolute": [(str(outside / "evil"), b"evil")],
        "symlink": [
            (link(f"{TASK}/out", str(outside), tarfile.SYMTYPE), b""),
            (f"{TASK}/out/evil", b"evil"),
        ],
        "hard link": [(link(f"{TASK}/out", str(outside / "secret"), tarfile.LNKTYPE), b"")],
    }
    server.content = tar_of((f"{TASK}/dataset.json", b"{}"), *bad[kind])
    with pytest.raises(DatasetError, match="cannot be extracted"):
        fetch()
    assert files_in(tmp_path) == {
        "outside/secret": b"secret",
        f"data/{ARCHIVE}": server.content,
    }
    assert {path.name for path in data.iterdir()} == {ARCHIVE}


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>log in</html>" * 99, data_set(0)[:500_000], tar_of(("Task09_Spleen/a", b""))],
    ids=["empty", "a page", "half", "another task"],
)
def test_a_file_that_is_not_an_archive_of_the_task_leaves_no_folder(fetch, server, data, content):
    server.content = content
    with pytest.raises(DatasetError):
        fetch()
    assert not (data / TASK).exists()
    assert not list(data.glob(".*"))


def test_an_interrupted_extraction_does_not_look_complete(fetch, server, data, monkeypatch):
    def extract_some(archive: Path, folder: Path, **_: Any) -> None:
        (folder / TASK).mkdir()
        (folder / TASK / "dataset.json").write_bytes(b"{}")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(download, "extractall", extract_some)
        with pytest.raises(KeyboardInterrupt):
            fetch()
    assert files_in(data) == {ARCHIVE: server.content}
    fetch()
    assert server.num_requests == 0
    assert files_in(data) == files_of(server.content)


def test_leftovers_of_a_killed_run_are_not_used(fetch, server, data):
    half = data / f".{TASK}.work" / TASK
    half.mkdir(parents=True)
    (half / "torn.nii.gz").write_bytes(b"half")
    (data / f".{TASK}.lock").touch()
    fetch()
    assert files_in(data) == files_of(server.content)


# --- files


def test_a_full_disk_is_an_output_error(fetch, data, monkeypatch):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    retrieve = monai.apps.utils.urlretrieve
    monkeypatch.setattr(
        monai.apps.utils, "urlretrieve", lambda url, path, **_: retrieve(url, "/dev/full")
    )
    with pytest.raises(OutputError, match="No space left"):
        fetch()
    assert not list(data.iterdir())


def test_a_download_that_may_not_be_written_is_an_output_error(fetch, data, monkeypatch):
    """MONAI's download_url reports success."""

    def retrieve(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(monai.apps.utils, "urlretrieve", retrieve)
    with pytest.raises(OutputError, match=f"cannot write {data / ARCHIVE}: Permission denied"):
        fetch()


def test_an_impossible_folder_is_an_output_error(fetch, server, data):
    data.write_text("a file")
    with pytest.raises(OutputError, match="--out"):
        fetch()
    assert server.num_requests == 0


def test_a_folder_of_something_else_is_refused_before_the_download(fetch, server, data):
    (data / TASK / "imagesTr").mkdir(parents=True)
    with pytest.raises(OutputError, match=r"has no dataset\.json"):
        fetch()
    assert server.num_requests == 0


def test_an_empty_folder_is_filled(fetch, server, data):
    (data / TASK).mkdir(parents=True)
    fetch()
    assert files_in(data) == files_of(server.content)


def test_two_runs_do_not_write_to_one_file(fetch, server, data):
    data.mkdir()
    with (data / f".{TASK}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(OutputError, match="another run"):
            fetch()
    assert server.num_requests == 0
    fetch()


# --- network


@pytest.mark.parametrize("status", [403, 404, 416, 503])
def test_the_response_of_the_server_is_in_the_error(fetch, server, data, status):
    server.status = status
    with pytest.raises(DatasetError, match=f"HTTP Error {status}"):
        fetch()
    assert files_in(data) == {}


def test_a_redirect_may_not_leave_its_scheme(fetch, server, data):
    server.redirect = "ftp://127.0.0.1:9/archive.tar"
    with pytest.raises(DatasetError, match="redirects to ftp"):
        fetch()
    assert files_in(data) == {}


def test_only_https_is_fetched(server, data, monkeypatch):
    monkeypatch.setitem(DecathlonDataset.resource, TASK, f"{server.url}/{ARCHIVE}")
    with pytest.raises(ConfigError, match="which is not https"):
        download_task(TASK, data)
    assert server.num_requests == 0


def test_every_url_of_monai_is_https_and_has_an_md5():
    for name, url in DecathlonDataset.resource.items():
        assert url.startswith("https://")
        assert url.endswith(f"/{name}.tar")
        assert len(DecathlonDataset.md5[name]) == 32


def test_a_log_says_what_is_done(fetch, server, caplog, capfd):
    caplog.set_level(logging.INFO)
    fetch()
    assert caplog.messages == [f"downloading {ARCHIVE}", f"extracting {ARCHIVE}"]
    assert capfd.readouterr() == ("", ""), "without a terminal there is no bar"


def test_a_terminal_gets_a_bar(fetch, server, monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    fetch()
    assert ARCHIVE in terminal.getvalue()
    assert "B/s" in terminal.getvalue()


# --- the script


def test_offline_is_one_line_and_exit_code_2(tmp_path):
    proxy = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")
    result = run_script(
        "download", "--task", "4", "--output_dir", tmp_path, env={**os.environ, **proxy}
    )
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith(
        f"downloading {ARCHIVE}\nerror: cannot download {DecathlonDataset.resource[TASK]}: Connection refused."
    )
    assert result.stderr.count("\n") == 2
    assert files_in(tmp_path) == {}


def test_the_script_names_the_licence_and_the_folder(tmp_path):
    folder = tmp_path / "Task09_Spleen"
    folder.mkdir()
    (folder / "dataset.json").write_text("{}")
    result = run_script("download", "--task", "09", "--output_dir", tmp_path)
    assert result.returncode == 0, result.stderr
    assert str(folder) in result.stdout
    assert "CC BY-SA 4.0" in result.stdout.splitlines()[-1]
    assert "already exists" in result.stderr


@pytest.fixture
def heeds_ctrl_c() -> Iterator[None]:
    """Background shells make their descendants ignore SIGINT; a handler in the child resets this."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeds_ctrl_c")
def test_ctrl_c_is_one_line_and_leaves_nothing(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent_proxy:
        proxy = f"http://127.0.0.1:{silent_proxy.getsockname()[1]}"
        script = ROOT / "scripts" / "download.py"
        process = subprocess.Popen(
            [sys.executable, script, "--task", "4", "--output_dir", tmp_path],
            env={**os.environ, "https_proxy": proxy},
            stderr=subprocess.PIPE,
            text=True,
        )
        silent_proxy.settimeout(120)
        try:
            connection, _ = silent_proxy.accept()
            with connection:
                process.send_signal(signal.SIGINT)
                _, stderr = process.communicate(timeout=50)
        finally:
            process.kill()
    assert process.returncode == 75
    assert (
        stderr
        == f"downloading {ARCHIVE}\nstopped. Run the same command again; it downloads the archive anew.\n"
    )
    assert files_in(tmp_path) == {}
