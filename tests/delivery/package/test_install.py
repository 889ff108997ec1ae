"""Installed packages are found by name; what is not the package of its checksum is refused and leaves nothing."""

import hashlib
import shutil
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from helpers.package_cases import NAME, request_for

from dynunet_bundle.commands.main import run_program
from dynunet_bundle.dataset.download import fetch_checked
from dynunet_bundle.delivery.package import install
from dynunet_bundle.delivery.package.archive import files_of, write_zip
from dynunet_bundle.delivery.package.install import install_package
from dynunet_bundle.delivery.package.make import Package, make_package
from dynunet_bundle.errors import ConfigError, DatasetError, OutputError, WeightsError
from dynunet_bundle.files import sha256_of
from dynunet_bundle.networks.model_json import model_files


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Package:
    return make_package(request_for(tmp_path_factory.mktemp("package")))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DYNUNET_BUNDLE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def archive_of(made: Package) -> Path:
    assert made.archive is not None
    return made.archive


def test_an_installed_package_is_found_by_its_name(
    made: Package, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = archive_of(made)
    assert run_program(["install", str(archive), "--sha256", sha256_of(archive).upper()]) == 0
    assert files_of(home / NAME) == files_of(made.folder)
    assert [path.name for path in home.iterdir() if path.is_dir()] == [NAME]
    monkeypatch.chdir(tmp_path)
    assert model_files(Path(NAME)) == [home / NAME / "models" / "model.pt"]
    # a folder of this name in the current folder comes first
    shutil.copytree(made.folder, tmp_path / NAME)
    assert model_files(Path(NAME)) == [Path(NAME) / "models" / "model.pt"]


@pytest.mark.parametrize("form", ["{}", "file://{}", "file://localhost{}"])
def test_a_file_is_a_path_or_an_address(form: str, made: Package, home: Path) -> None:
    assert install_package(form.format(archive_of(made)), name="own") == home / "own"


def test_an_installed_package_is_replaced_on_request_only(made: Package, home: Path) -> None:
    archive = str(archive_of(made))
    install_package(archive)
    (home / NAME / "note").touch()
    with pytest.raises(OutputError, match="--overwrite"):
        install_package(archive)
    assert (home / NAME / "note").is_file()
    install_package(archive, overwrite=True)
    assert not (home / NAME / "note").exists()
    (home / "mine").mkdir()
    with pytest.raises(OutputError, match="is not a bundle"):
        install_package(archive, name="mine", overwrite=True)


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("http://example.org/a.zip", {}, "neither https:// nor file://"),
        ("ftp://example.org/a.zip", {}, "neither https:// nor file://"),
        ("https://example.org/a.zip", {}, "needs --sha256"),
        ("file://host/a.zip", {}, "another machine"),
        ("{}", {"sha256": "abc"}, "64 hexadecimal digits"),
        ("{}", {"name": "../x"}, "the name of the package"),
        ("{}", {"name": "-x"}, "the name of the package"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    source: str, options: dict[str, str], message: str, made: Package, home: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        install_package(source.format(archive_of(made)), **options)
    assert not [path for path in home.glob("*") if path.is_dir()]


def test_another_file_than_that_of_the_checksum_is_refused(made: Package, home: Path) -> None:
    with pytest.raises(DatasetError, match="does not have the SHA-256"):
        install_package(str(archive_of(made)), sha256="0" * 64)
    with pytest.raises(DatasetError, match="does not exist"):
        install_package("absent.zip")


@pytest.mark.parametrize("change", ["changed", "missing", "weights", "metadata"])
def test_a_zip_that_is_not_the_whole_package_is_refused(
    change: str, made: Package, home: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(made.folder, tmp_path / NAME)
    victims = {"missing": "docs/README.md", "weights": "models/model.pt"}
    if change == "changed":
        (folder / "docs" / "README.md").write_text("other")
    else:
        (folder / victims.get(change, "configs/metadata.json")).unlink()
    write_zip(folder, tmp_path / "bad.zip")
    with pytest.raises(WeightsError, match=r"is not a package|docs/README.md has another SHA-256"):
        install_package(str(tmp_path / "bad.zip"))
    assert not [path for path in home.iterdir() if path.is_dir()]


def test_unsafe_names_are_refused(made: Package, home: Path, tmp_path: Path) -> None:
    shutil.copyfile(archive_of(made), tmp_path / "bad.zip")
    with zipfile.ZipFile(tmp_path / "bad.zip", "a") as archive:
        archive.writestr("../escaped", b"x")
    with pytest.raises(DatasetError, match="leads out of its folder"):
        install_package(str(tmp_path / "bad.zip"))
    assert not (home.parent / "escaped").exists()


@pytest.fixture
def server(made: Package) -> Iterator[str]:
    handler = partial(SimpleHTTPRequestHandler, directory=str(archive_of(made).parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{found.server_port}/{archive_of(made).name}"
        found.shutdown()


def test_a_download_is_the_file_of_the_checksum(
    server: str, made: Package, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch_checked(server, sha256_of(archive_of(made)), tmp_path / "got.zip")
    assert (tmp_path / "got.zip").read_bytes() == archive_of(made).read_bytes()
    wrong = hashlib.sha256(b"other").hexdigest()
    with pytest.raises(DatasetError, match="does not have the SHA-256"):
        fetch_checked(server, wrong, tmp_path / "other.zip")
    assert not (tmp_path / "other.zip").exists()
    monkeypatch.setattr(
        "dynunet_bundle.dataset.download.fetch_checked",
        lambda url, digest, path: fetch_checked(server, digest, path),
    )
    url, digest = "https://example.org/a.zip", sha256_of(archive_of(made))
    assert install_package(url, sha256=digest) == home / NAME
    assert install.SHA256.fullmatch(digest)
