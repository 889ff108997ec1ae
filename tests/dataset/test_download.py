"""Downloads go on where they were cut, wrong or unsafe archives leave nothing, and failures are one line.

A server on 127.0.0.1 plays the real one; it can cut connections, lack ranges, or change its archive.
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
import termios
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, run_script
from monai.apps import DecathlonDataset

from dynunet_bundle.dataset import download
from dynunet_bundle.dataset import http_resume as resume
from dynunet_bundle.dataset.download import download_task, find_task
from dynunet_bundle.errors import ConfigError, DatasetError, OutputError

TASK = "Task04_Hippocampus"
ARCHIVE, PART, FACTS = f"{TASK}.tar", f"{TASK}.tar.part", f"{TASK}.tar.part.json"
IMAGE_BYTES = 1_000_000
CUT_AT = 400_000
PROXIES = [
    f"{kind}_proxy".upper() if upper else f"{kind}_proxy"
    for kind in ("http", "https", "all", "no")
    for upper in (False, True)
]


def tar_of(*members: tuple[str | tarfile.TarInfo, bytes]) -> bytes:
    """A tar file of named contents, or of members that are built by hand."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name) if isinstance(name, str) else name
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def data_set(seed: int, num_bytes: int = IMAGE_BYTES) -> bytes:
    """An archive as the Decathlon's, of one image of random bytes."""
    image = np.random.default_rng(seed).bytes(num_bytes)
    return tar_of((f"{TASK}/dataset.json", b"{}"), (f"{TASK}/imagesTr/a.nii.gz", image))


class Server(ThreadingHTTPServer):
    """Serves ``content`` under any path and counts what it sends.

    Attributes:
        validators: headers that tell one archive from another.
        ranges: whether it knows Range.
        if_range: whether it knows If-Range.
        sized: whether it tells Content-Length.
        block: it sends whole blocks of so many bytes, so a range may begin earlier than asked.
        cut_at: bytes of a response after which it cuts the connection; None for never.
        cut: how: "close" ends the stream, "reset" breaks it, "stall" goes silent.
        redirect: where it sends a client instead.
        starts: first byte of each response.
        conditions: If-Range of each request that asks for a part.
        num_bytes: sum of the bytes of the bodies.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = data_set(0)
        self.validators = {"ETag": '"first"'}
        self.ranges = self.if_range = True
        self.sized = True
        self.block = 1
        self.cut_at: int | None = None
        self.cut = "close"
        self.redirect = ""
        self.status = 200
        self.released = threading.Event()
        self.forget()

    def forget(self) -> None:
        self.starts: list[int] = []
        self.conditions: list[str | None] = []
        self.num_bytes = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_) -> None:
        """A client that hangs up is part of the game."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_) -> None:
        pass

    def do_GET(self) -> None:  # noqa: N802 - the name that http.server asks for
        server = self.server
        if server.redirect:
            self.send_response(302)
            self.send_header("Location", server.redirect)
            self.end_headers()
            return
        if server.status != 200:
            self.send_error(server.status)
            return
        body = self._start(server)
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

    def _start(self, server: Server) -> bytes:
        """Send the head of the response and return its body."""
        total = len(server.content)
        condition = self.headers["If-Range"]
        same = condition is None or condition in server.validators.values()
        wanted = self.headers["Range"] if server.ranges and (same or not server.if_range) else None
        if "Range" in self.headers:
            server.conditions.append(condition)
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        start -= start % server.block
        if start >= total:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{total}")
            self.end_headers()
            return b""
        server.starts.append(start)
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        if server.sized:
            self.send_header("Content-Length", str(total - start))
        for name, value in server.validators.items():
            self.send_header(name, value)
        self.end_headers()
        return server.content[start:]


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
    """The folder that downloads go to; not there yet."""
    return tmp_path / "data"


@pytest.fixture
def fetch(server: Server, data: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Download what the server has now; ``md5`` other than its own on demand."""

    def run(md5: str | None = None, **arguments: Any) -> Path:
        server.forget()
        right = hashlib.md5(server.content, usedforsecurity=False).hexdigest()
        monkeypatch.setitem(DecathlonDataset.md5, TASK, md5 or right)
        return download_task(TASK, data, base_url=server.url, **arguments)

    return run


@pytest.fixture
def fetch_cut(server: Server, data: Path, fetch: Callable[..., Path]) -> Callable[..., int]:
    """Try a download that is cut; gives the number of bytes that are on disk."""

    def run(how: str = "close") -> int:
        server.cut_at, server.cut = CUT_AT, how
        with pytest.raises(DatasetError, match="Run the same command again"):
            fetch()
        server.cut_at = None
        assert not (data / ARCHIVE).exists()
        assert not (data / TASK).exists()
        return (data / PART).stat().st_size

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
    assert server.starts == []
    assert "is there already" in caplog.text
    assert {path: path.stat().st_mtime_ns for path in [data, *data.rglob("*")]} == before


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_cut_download_goes_on_with_the_next_byte(fetch, fetch_cut, server, data, how, caplog):
    done = fetch_cut(how)
    assert CUT_AT - resume.CHUNK_BYTES < done <= CUT_AT
    caplog.set_level(logging.INFO)
    fetch()
    assert server.starts == [done]
    assert server.conditions == ['"first"']
    assert server.num_bytes == len(server.content) - done
    assert f"going on at {done / 1e6:.1f} of {len(server.content) / 1e6:.1f} MB" in caplog.text
    assert files_in(data) == files_of(server.content)


def test_a_download_may_be_cut_many_times(fetch, fetch_cut, server, data):
    assert [fetch_cut() for _ in range(2)] == [CUT_AT, 2 * CUT_AT]
    fetch()
    assert server.starts == [2 * CUT_AT]
    assert files_in(data) == files_of(server.content)


def test_a_silent_server_is_not_waited_for(fetch, server, data, monkeypatch):
    monkeypatch.setattr(resume, "TIMEOUT_S", 2.0)
    server.cut_at, server.cut = CUT_AT, "stall"
    with pytest.raises(DatasetError, match="broke: timed out"):
        fetch()
    server.cut_at = None
    monkeypatch.setattr(resume, "TIMEOUT_S", 60.0)
    fetch()
    assert files_in(data) == files_of(server.content)


def test_whole_but_not_yet_renamed_asks_for_nothing(fetch, fetch_cut, server, data):
    fetch_cut()
    (data / PART).write_bytes(server.content)
    fetch()
    assert server.starts == []
    assert files_in(data) == files_of(server.content)


def test_a_server_without_ranges_sends_all_again(fetch, fetch_cut, server, data):
    server.ranges = False
    fetch_cut()
    fetch()
    assert server.starts == [0]
    assert server.num_bytes == len(server.content)
    assert files_in(data) == files_of(server.content)


def test_a_range_that_was_not_asked_for_is_not_taken(fetch, fetch_cut, server, data):
    fetch_cut()
    server.block = 4096
    fetch()
    assert server.starts == [CUT_AT // 4096 * 4096, 0]
    assert files_in(data) == files_of(server.content)


def test_a_server_that_tells_no_size_is_read_to_its_end(fetch, server, data):
    server.sized = False
    fetch()
    assert files_in(data) == files_of(server.content)


@pytest.mark.parametrize("if_range", [True, False])
@pytest.mark.parametrize("num_bytes", [IMAGE_BYTES, 2 * IMAGE_BYTES, 1000])
@pytest.mark.parametrize("header", ["ETag", "Last-Modified"])
def test_a_changed_archive_is_not_glued_to_the_old(
    fetch, fetch_cut, server, data, header, num_bytes, if_range
):
    server.validators = {header: "one"}
    fetch_cut()
    server.content, server.validators = data_set(1, num_bytes), {header: "two"}
    server.if_range = if_range
    fetch()
    assert server.starts[-1] == 0
    assert files_in(data) == files_of(server.content)


@pytest.mark.parametrize("num_bytes", [2 * IMAGE_BYTES, 1000])
def test_the_size_alone_shows_a_change_too(fetch, fetch_cut, server, data, num_bytes):
    server.validators = {}
    fetch_cut()
    server.content = data_set(1, num_bytes)
    fetch()
    assert server.starts[-1] == 0
    assert files_in(data) == files_of(server.content)


def test_a_weak_etag_does_not_stand_in_if_range(fetch, fetch_cut, server, data):
    server.validators = {"ETag": 'W/"first"'}
    done = fetch_cut()
    fetch()
    assert server.starts == [done]
    assert server.conditions == [None]
    assert files_in(data) == files_of(server.content)


@pytest.mark.parametrize("facts", [None, b"", b"[]", b"{}", b'{"size": 1}', b'{"etag": "\xff'])
def test_bytes_of_unknown_origin_are_not_built_on(fetch, fetch_cut, server, data, facts):
    fetch_cut()
    (data / PART).write_bytes(b"x" * CUT_AT)
    (data / FACTS).unlink()
    if facts is not None:
        (data / FACTS).write_bytes(facts)
    fetch()
    assert server.starts[-1] == 0
    assert files_in(data) == files_of(server.content)


def test_a_wrong_md5_removes_the_archive(fetch, server, data, capfd):
    with pytest.raises(DatasetError, match=f"MD5 {'0' * 32}, and was removed"):
        fetch(md5="0" * 32)
    assert files_in(data) == {}
    assert capfd.readouterr().out == ""  # MONAI's own lines
    fetch()
    assert server.starts == [0]
    assert files_in(data) == files_of(server.content)


def test_an_archive_that_was_there_is_used_if_its_md5_is_right(fetch, server, data):
    data.mkdir()
    (data / ARCHIVE).write_bytes(server.content)
    fetch(keep_archive=True)
    assert server.starts == []
    assert files_in(data) == files_of(server.content) | {ARCHIVE: server.content}


def test_a_wrong_archive_of_the_user_is_left_alone(fetch, data):
    data.mkdir()
    (data / ARCHIVE).write_bytes(b"the user's")
    with pytest.raises(DatasetError, match="Remove it"):
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
def test_what_is_no_archive_of_the_task_leaves_no_folder(fetch, server, data, content):
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
    assert server.starts == []
    assert files_in(data) == files_of(server.content)


def test_what_a_killed_run_left_is_not_taken_over(fetch, server, data):
    half = data / f".{TASK}.extracting" / TASK
    half.mkdir(parents=True)
    (half / "torn.nii.gz").write_bytes(b"half")
    (data / f".{TASK}.lock").touch()
    fetch()
    assert files_in(data) == files_of(server.content)


# --- files


def test_a_full_disk_is_an_output_error(fetch, data):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    data.mkdir()
    (data / PART).symlink_to("/dev/full")
    with pytest.raises(OutputError, match="No space left"):
        fetch()


def test_an_impossible_folder_is_an_output_error(fetch, server, data):
    data.write_text("a file")
    with pytest.raises(OutputError, match="--out"):
        fetch()
    assert server.starts == []


def test_a_folder_of_something_else_is_refused_before_the_download(fetch, server, data):
    (data / TASK / "imagesTr").mkdir(parents=True)
    with pytest.raises(OutputError, match=r"holds no dataset\.json"):
        fetch()
    assert server.starts == []


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
    assert server.starts == []
    fetch()


# --- network


@pytest.mark.parametrize("status", [403, 404, 416, 503])
def test_the_answer_of_the_server_is_told(fetch, server, data, status):
    server.status = status
    with pytest.raises(DatasetError, match=f"answers {status}"):
        fetch()
    assert files_in(data) == {}


def test_a_redirect_may_not_leave_its_scheme(fetch, server, data):
    server.redirect = "ftp://127.0.0.1:9/archive.tar"
    with pytest.raises(DatasetError, match="redirects to ftp"):
        fetch()
    assert files_in(data) == {}


def test_only_https_is_fetched(server, data, monkeypatch):
    monkeypatch.setitem(DecathlonDataset.resource, TASK, f"{server.url}/{ARCHIVE}")
    with pytest.raises(ConfigError, match="only https"):
        download_task(TASK, data)
    assert server.starts == []


def test_every_url_of_monai_is_https_and_has_an_md5():
    for name, url in DecathlonDataset.resource.items():
        assert url.startswith("https://")
        assert url.endswith(f"/{name}.tar")
        assert len(DecathlonDataset.md5[name]) == 32


@pytest.mark.parametrize(("interval_s", "fewest", "most"), [(0.0, 10, 99), (1e9, 2, 2)])
def test_a_log_gets_a_line_now_and_then_and_at_the_end(
    fetch, server, monkeypatch, caplog, interval_s, fewest, most
):
    monkeypatch.setattr(resume, "LINE_INTERVAL_S", interval_s)
    caplog.set_level(logging.INFO)
    fetch()
    lines = [line for line in caplog.messages if line.startswith(ARCHIVE)]
    total = f"{len(server.content) / 1e6:.1f}"
    assert fewest <= len(lines) <= most
    assert lines[0] == f"{ARCHIVE}: starting at 0.0 of {total} MB"
    assert lines[-1] == f"{ARCHIVE}: {total} of {total} MB"


def test_a_terminal_gets_a_bar(fetch, server, monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    fetch()
    assert ARCHIVE in terminal.getvalue()
    assert "100%" in terminal.getvalue()


# --- the script


def test_offline_is_one_line_and_exit_code_2(tmp_path):
    proxy = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")
    result = run_script("download", "--task", "4", "--out", tmp_path, env={**os.environ, **proxy})
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith(
        f"error: cannot reach {DecathlonDataset.resource[TASK]}: Connection refused."
    )
    assert result.stderr.count("\n") == 1
    assert files_in(tmp_path) == {}


def test_the_script_names_the_licence_and_the_folder(tmp_path):
    folder = tmp_path / "Task09_Spleen"
    folder.mkdir()
    (folder / "dataset.json").write_text("{}")
    result = run_script("download", "--task", "09", "--out", tmp_path)
    assert result.returncode == 0, result.stderr
    assert str(folder) in result.stdout
    assert "CC BY-SA 4.0" in result.stdout.splitlines()[-1]
    assert "is there already" in result.stderr


@pytest.fixture
def heeds_ctrl_c() -> Iterator[None]:
    """A shell in the background lets its children ignore SIGINT, and theirs; a handler is not passed on."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeds_ctrl_c")
def test_ctrl_c_is_one_line_and_resumable(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent_proxy:
        proxy = f"http://127.0.0.1:{silent_proxy.getsockname()[1]}"
        script = ROOT / "scripts" / "download.py"
        process = subprocess.Popen(
            [sys.executable, script, "--task", "4", "--out", tmp_path],
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
    assert stderr == "stopped. The same command goes on from here.\n"
    assert files_in(tmp_path) == {}
