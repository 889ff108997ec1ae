"""The code of a package: the Python that its configs name, and the configs that all packages share."""

import shutil
from pathlib import Path

import dynunet_bundle
from dynunet_bundle.configs.overlays import COPIED
from dynunet_bundle.configs.overrides import CONFIG_SCHEMA
from dynunet_bundle.configs.values import ANYTHING
from dynunet_bundle.errors import ConfigError
from dynunet_bundle.files import json_bytes, read_json, write_json


def copy_code(bundle: Path, folder: Path) -> None:
    """Copy the licence, the Python package and the configs that overlays do not change.

    Args:
        bundle: folder of the bundle.
        folder: folder of the package, without ``configs`` and ``models``.
    """
    shutil.copyfile(bundle / "LICENSE", folder / "LICENSE")
    # an installed package holds the bundle's files in a folder "bundle"
    code = Path(dynunet_bundle.__file__).parent
    others = shutil.ignore_patterns("__pycache__", "*.pyc", ".*", "*.part")
    shutil.copytree(
        code,
        folder / "dynunet_bundle",
        ignore=lambda path, names: {
            *others(path, names),
            *(["bundle"] if Path(path) == code else []),
        },
        copy_function=shutil.copyfile,
    )
    for path in (folder / "dynunet_bundle").rglob("*.json"):
        # in the form that the Model Zoo's hooks give
        path.write_bytes(json_bytes(read_json(path, ConfigError, ANYTHING)))
    for name in ("configs", "models"):
        (folder / name).mkdir()
    for name in COPIED:
        source, target = bundle / "configs" / name, folder / "configs" / name
        if source.suffix == ".json":
            write_json(target, read_json(source, ConfigError, CONFIG_SCHEMA))
        else:
            shutil.copyfile(source, target)
