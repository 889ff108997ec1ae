"""Install a package from its zip into the folder in which ``--model NAME`` finds it. Nothing in it is executed."""

import re
import shutil
import tempfile
from pathlib import Path
from urllib.parse import unquote, urlsplit

from dynunet_bundle.delivery.package.archive import (
    CODE_SUMS_NAME,
    SUMS_NAME,
    files_of,
    publish,
    require_replaceable,
    staged,
)
from dynunet_bundle.dicom_input.archives import extracted
from dynunet_bundle.errors import ConfigError, DatasetError, OutputError, WeightsError
from dynunet_bundle.files import ensure_writable, sha256_of
from dynunet_bundle.machine.places import models_home
from dynunet_bundle.networks.model_json import MODEL, model_facts

SHA256 = re.compile(r"[0-9a-f]{64}")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
"""Form of a name of an installed package: one folder, and not an option."""


def install_package(
    source: str, sha256: str | None = None, name: str | None = None, overwrite: bool = False
) -> Path:
    """Install a package.

    Args:
        source: path of a zip, or its address, ``https://`` or ``file://``.
        sha256: SHA-256 of the zip; required for ``https://``.
        name: name of the installed package; that of the folder in the zip by default.
        overwrite: whether to replace an installed package of this name.

    Returns:
        Folder of the installed package, in ``models_home()``.

    Raises:
        ConfigError: for another scheme, a checksum that is missing or malformed, or a name that is not one.
        DatasetError: if the zip cannot be had, is not the one of the checksum, is damaged, larger than the limits, or
            has unsafe names.
        WeightsError: if it is not a package, or a file in it has another checksum than its list says.
        OutputError: if the name is taken, or the result cannot be written.
    """
    digest = None if sha256 is None else sha256.strip().lower()
    if digest is not None and not SHA256.fullmatch(digest):
        raise ConfigError(f'--sha256 is "{sha256}". Pass 64 hexadecimal digits.')
    home = ensure_writable(models_home())
    with tempfile.TemporaryDirectory(dir=home, prefix=".install.") as work:
        archive = _zip_of(source, digest, Path(work))
        try:
            content = extracted(archive, keep_names=True)
        except DatasetError as error:
            raise DatasetError(f"{source}: {error}") from error
        package = _package_in(content, source)
        chosen = name or package.name
        if not NAME.fullmatch(chosen):
            raise ConfigError(
                f'the name of the package is "{chosen}". Pass a --name of letters, digits, "_", "-" and ".".'
            )
        target = home / chosen
        require_replaceable(target)
        if target.exists() and not overwrite:
            raise OutputError(
                f"{target} exists. Pass --overwrite to replace it, or another --name."
            )
        with staged(home, chosen) as folder:
            shutil.copytree(package, folder, dirs_exist_ok=True, copy_function=shutil.copyfile)
            publish(folder, target)
    return target


def _zip_of(source: str, digest: str | None, work: Path) -> Path:
    """The zip as a file, with the right checksum."""
    parts = urlsplit(source)
    if parts.scheme == "https":
        if digest is None:
            raise ConfigError(
                f"{source} needs --sha256 with the SHA-256 of the zip, from its author."
            )
        from dynunet_bundle.dataset.download import fetch_checked

        archive = work / "package.zip"
        fetch_checked(source, digest, archive)
        return archive
    if "://" in source and parts.scheme != "file":
        raise ConfigError(f"{source} is neither https:// nor file://. Download it yourself.")
    is_url = parts.scheme == "file"
    if is_url and parts.netloc not in ("", "localhost"):
        raise ConfigError(f"{source} names another machine. Pass file:///PATH.")
    archive = Path(unquote(parts.path)) if is_url else Path(source)
    if not archive.is_file():
        raise DatasetError(f"{archive} does not exist. Pass the zip of a package, or its address.")
    if digest is not None and sha256_of(archive) != digest:
        raise DatasetError(f"{archive} does not have the SHA-256 {digest}. Get it again.")
    return archive


def _package_in(content: Path, source: str) -> Path:
    """The only folder of the zip, which must be a package with its weights and correct checksums."""
    folders = [path for path in content.iterdir() if path.is_dir()]
    package = folders[0] if len(folders) == 1 else content
    weights = package / "models" / MODEL
    if not (package / "configs" / "metadata.json").is_file() or not weights.is_file():
        raise WeightsError(
            f"{source} is not a package: it needs one folder with configs/metadata.json and models/{MODEL}."
        )
    listed = _listed_sums(package / SUMS_NAME) | _listed_sums(package / CODE_SUMS_NAME)
    told = model_facts(weights).get("sha256")
    if told is not None:
        listed[weights.relative_to(package).as_posix()] = told
    found = {name.as_posix() for name in files_of(package)}
    wrong = sorted(
        name
        for name, digest in listed.items()
        if name not in found or sha256_of(package / name) != digest
    )
    if wrong:
        raise WeightsError(f"{source} is damaged: {wrong[0]} has another SHA-256. Get it again.")
    return package


def _listed_sums(path: Path) -> dict[str, str]:
    """Checksums by file of a ``SHA256SUMS``; empty if there is none."""
    lines = (
        path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    )
    pairs = [line.split(maxsplit=1) for line in lines if line.strip()]
    return {pair[1].removeprefix("*"): pair[0].lower() for pair in pairs if len(pair) > 1}
