"""Zip archives are read like folders, leave no files behind, and are refused if unsafe."""

import os
import signal
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from conftest import BUNDLE

from dynunet_bundle.configs.preflight import preflight
from dynunet_bundle.errors import DatasetError

pytest.importorskip("pydicom")

from helpers.made_dicom import make_series, oblique, volume

from dynunet_bundle.dataset.dicom_cases import find_cases
from dynunet_bundle.dataset.inputs import find_inputs
from dynunet_bundle.dicom_input import archives
from dynunet_bundle.dicom_input.archives import Limits, extracted, remove_dead_extractions
from dynunet_bundle.dicom_input.series import load_series


def zipped(archive: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in files.items():
            file.writestr(name, content)
    return archive


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    folder = make_series(tmp_path / "dicom", volume(), oblique())
    names = {f"Doe Jane/1970/{file.name}": file.read_bytes() for file in folder.iterdir()}
    return zipped(tmp_path / "Doe.zip", {**names, "Doe Jane/DICOMDIR": b"x", "notes.txt": b"Doe"})


def test_series_of_an_archive(archive: Path) -> None:
    (case,) = find_cases(archive)
    assert case["image"].startswith(f"{archive}::")
    series = load_series(case["image"])
    np.testing.assert_array_equal(series.array[0], volume())
    folder = extracted(archive)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not any("Doe" in str(path) for path in folder.rglob("*"))


def test_links_to_archives_folders_and_files(archive: Path, tmp_path: Path) -> None:
    (expected,) = find_cases(archive)
    store = archive.rename(tmp_path / "SHA256E-s10--abc")
    archive.symlink_to(store.name)
    (case,) = find_inputs(archive)
    assert case["image"] == expected["image"]
    np.testing.assert_array_equal(load_series(case["image"]).array[0], volume())
    # a folder of links to folders, in one of which a link leads back
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "p1").symlink_to(tmp_path / "dicom")
    (tmp_path / "dicom" / "loop").symlink_to(tmp_path / "in")
    (case,) = find_inputs(tmp_path / "in")
    assert case["image"].startswith(f"{tmp_path / 'in'}::")
    np.testing.assert_array_equal(load_series(case["image"]).array[0], volume())
    file = next(path for path in (tmp_path / "dicom").iterdir() if path.is_file())
    file.unlink()
    file.symlink_to("nowhere")
    with pytest.raises(DatasetError, match="a link to a missing file.*git annex get"):
        find_inputs(tmp_path / "in")


CHILD = """
import sys
from multiprocessing import get_context
from pathlib import Path
from dynunet_bundle.dicom_input.archives import extracted
def work(archive):
    assert any(extracted(Path(archive)).iterdir())
if __name__ == "__main__":
    archive = sys.argv[1]
    worker = get_context(sys.argv[2]).Process(target=work, args=(archive,))
    worker.start()
    worker.join()
    assert worker.exitcode == 0
    folder = extracted(Path(archive))
    worker = get_context(sys.argv[2]).Process(target=work, args=(archive,))
    worker.start()
    worker.join()
    assert worker.exitcode == 0 and any(folder.iterdir())
    raise RuntimeError("ends badly")
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_nothing_is_left_when_processes_end(archive: Path, tmp_path: Path, method: str) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    result = subprocess.run(
        [sys.executable, str(script), str(archive), method],
        env={**os.environ, "TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "ends badly" in result.stderr and "Assertion" not in result.stderr, result.stderr
    assert not list(temporary.glob("dynunet-dicom-*"))


SLOW = """
import signal, sys, time
from pathlib import Path
# a test run in the background may ignore them, and a process inherits that
signal.signal(signal.SIGTERM, signal.SIG_DFL)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
from dynunet_bundle.dataset.inputs import find_inputs
from dynunet_bundle.dicom_input import archives
write = archives._write
def write_some(file, entries, *others, **more):
    write(file, entries[:2], *others, **more)
    wait()
def wait():
    print("waiting", flush=True)
    time.sleep(240)
if sys.argv[2] == "during":
    archives._write = write_some
archives.extracted(Path(sys.argv[1]))
wait()
"""


@contextmanager
def waiting(archive: Path, temporary: Path, when: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has extracted an archive, or a part of it, to a folder of its own, and waits."""
    temporary.mkdir(exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, str(archive), when],
        env={**os.environ, "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == "waiting\n"
        (folder,) = temporary.iterdir()
        assert any(file.stat().st_size for file in folder.iterdir())
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
@pytest.mark.parametrize("when", ["during", "after"])
def test_nothing_is_left_by_a_signal(archive: Path, tmp_path: Path, name: str, when: str) -> None:
    temporary = tmp_path / "temporary"
    number = getattr(signal, name)
    with waiting(archive, temporary, when) as process:
        process.send_signal(number)
        # it ends as it would have without the folder
        assert process.wait(60) == -number
        assert not list(temporary.iterdir())


@pytest.mark.parametrize("when", ["during", "after"])
def test_what_a_killed_process_left_goes_at_the_next_start(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    temporary = tmp_path / "temporary"
    monkeypatch.setattr(archives.tempfile, "tempdir", str(temporary))
    with waiting(archive, temporary, when) as process:
        remove_dead_extractions()
        (folder,) = temporary.iterdir()
        process.kill()
        process.wait()
        assert any(folder.iterdir())
        host, *others = folder.name.removeprefix(archives.PREFIX).split("-")
        elsewhere = temporary / "-".join([f"{archives.PREFIX}00c0ffee", *others])
        elsewhere.mkdir()
        # what every run of a config does first
        preflight(str(BUNDLE))
        assert list(temporary.iterdir()) == [elsewhere]


def test_the_next_archive_removes_it_too(archive: Path, tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    with waiting(archive, temporary, "after") as process:
        process.kill()
        process.wait()
        (folder,) = temporary.iterdir()
        code = "import sys, pathlib; from dynunet_bundle.dicom_input.archives import extracted; "
        code += "extracted(pathlib.Path(sys.argv[1]))"
        environment = {**os.environ, "TMPDIR": str(temporary)}
        subprocess.run([sys.executable, "-c", code, str(archive)], env=environment, check=True)
        assert not list(temporary.iterdir())


def test_a_fork_leaves_the_folder_of_its_parent_alone(archive: Path) -> None:
    folder = extracted(archive)
    child = os.fork()
    if child == 0:
        archives.remove_extractions()
        os._exit(0)
    os.waitpid(child, 0)
    assert any(folder.iterdir())


def test_signals_that_somebody_catches_are_left_alone(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def catch(*_: object) -> None:
        pass

    before = {number: signal.signal(number, catch) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        extracted(archive)
        assert all(signal.getsignal(number) is catch for number in before)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def link(archive: Path) -> None:
    with zipfile.ZipFile(archive, "a") as file:
        entry = zipfile.ZipInfo("link")
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        file.writestr(entry, "/etc/passwd")


def named(name: str) -> Callable[[Path], None]:
    def add(archive: Path) -> None:
        with zipfile.ZipFile(archive, "a") as file:
            file.writestr(name, b"x")

    return add


def encrypt(archive: Path) -> None:
    content = bytearray(archive.read_bytes())
    place = content.index(b"PK\x01\x02")
    content[place + 8] |= 1
    archive.write_bytes(content)


def damage(archive: Path) -> None:
    content = archive.read_bytes()
    archive.write_bytes(content[:60] + b"\0" * 50 + content[110:])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (link, "contains a symbolic link"),
        (named("../../evil"), "leads out of its folder"),
        (named("/etc/evil"), "leads out of its folder"),
        (named("C:\\evil"), "leads out of its folder"),
        (named("a\\..\\..\\evil"), "leads out of its folder"),
        (encrypt, "is encrypted"),
        (damage, "cannot be read"),
        (lambda archive: archive.write_bytes(b"no zip"), "cannot be read"),
        (lambda archive: archive.write_bytes(archive.read_bytes()[:-40]), "cannot be read"),
    ],
)
def test_unsafe_archive_is_refused(
    archive: Path, spoil: Callable[[Path], None], words: str, tmp_path: Path
) -> None:
    spoil(archive)
    before = {file for file in tmp_path.rglob("*")}
    with pytest.raises(DatasetError) as caught:
        load_series(str(archive))
    assert words in str(caught.value) and "Doe" not in str(caught.value)
    assert {file for file in tmp_path.rglob("*")} == before


def test_limits(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="contains 7 files; 6 are allowed"):
        extracted(archive, Limits(files=6))
    with pytest.raises(DatasetError, match="would extract to"):
        extracted(archive, Limits(total_bytes=1000))
    bomb = zipped(tmp_path / "bomb.zip", {"a": b"\0" * 3_000_000})
    with pytest.raises(DatasetError, match="-fold; 200-fold is allowed"):
        extracted(bomb, Limits(free_bytes=1_000_000))
    assert extracted(bomb).is_dir()


def test_archive_with_false_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = zipped(tmp_path / "bomb.zip", {"a": b"\0" * 3_000_000})
    small = (3_000_000).to_bytes(4, "little")
    bomb.write_bytes(bomb.read_bytes().replace(small, (10).to_bytes(4, "little")))
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(archives.tempfile, "tempdir", str(temporary))
    with pytest.raises(DatasetError, match="cannot be read"):
        extracted(bomb)
    assert not list(temporary.iterdir())
