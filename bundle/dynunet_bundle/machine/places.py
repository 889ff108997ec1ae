"""Where the bundle lies, and where the commands put what the user names no place for."""

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
INSTALLED = PACKAGE / "bundle"
"""Copy of ``bundle/configs``, ``models`` and ``docs`` in an installed package; pyproject.toml makes it."""

BUNDLE = INSTALLED if INSTALLED.is_dir() else PACKAGE.parent
"""The bundle folder: the one that this package lies in, or the installed copy."""

IS_INSTALLED = BUNDLE == INSTALLED


def in_work_folder(path: str) -> Path:
    """A place for files that later commands find again: inside the bundle of a checkout, else in the current folder.

    Args:
        path: the place relative to the bundle.
    """
    return Path(path).relative_to(Path(path).parts[0]) if IS_INSTALLED else BUNDLE / path


def cache_folder() -> Path:
    """Folder for the facts of files: in the bundle of a checkout, else ``dynunet-bundle`` in the user's cache."""
    if not IS_INSTALLED:
        return BUNDLE / "eval" / "surveys"
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "dynunet-bundle" / "surveys"


def models_home() -> Path:
    """Folder of the packages that ``--model NAME`` finds: ``DYNUNET_BUNDLE_HOME``, else ``~/.dynunet_bundle``."""
    return Path(os.environ.get("DYNUNET_BUNDLE_HOME") or Path.home() / ".dynunet_bundle")


def changelog_file() -> Path:
    """The changelog that gives a package its version."""
    return (BUNDLE if IS_INSTALLED else BUNDLE.parent) / "CHANGELOG.md"
