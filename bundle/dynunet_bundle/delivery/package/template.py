"""Metadata, model card and licence text of the bundle in this repository, generated like those of a package."""

import dataclasses
from pathlib import Path

from dynunet_bundle.configs.overlays import merged_configs
from dynunet_bundle.delivery.package.facts import load_facts
from dynunet_bundle.delivery.package.metadata import make_metadata, read_changelog
from dynunet_bundle.delivery.package.model_card import CardContent, model_card
from dynunet_bundle.files import atomic_write, json_bytes
from dynunet_bundle.planning.plan import plan_from

NAME = "DynUNet segmentation"
DESCRIPTION = (
    "An nnU-Net-style segmentation bundle that is configured to its data set: DynUNet, DALI training feed, Ignite "
    "trainer, sliding-window inference. Its defaults are the plan of MSD Task04 (hippocampus, MR)."
)


def template_files(bundle: Path, changelog: Path) -> dict[Path, bytes]:
    """Expected content of these files, for the default plan and the newest version.

    Args:
        bundle: the bundle folder.
        changelog: the project's changelog.

    Returns:
        The content by path.

    Raises:
        ConfigError: if a config or the changelog is malformed, or a required package is not installed.
    """
    versions = read_changelog(changelog)
    newest = next(iter(versions))
    recipe = merged_configs(bundle / "configs", ())["train.json"]
    plan = plan_from(recipe).overlay()
    facts = dataclasses.replace(load_facts(None, plan), description=DESCRIPTION)
    return {
        bundle / "configs" / "metadata.json": json_bytes(
            make_metadata(plan, facts, NAME, versions, newest)
        ),
        bundle / "docs" / "README.md": model_card(
            CardContent(plan, recipe, facts, newest, weights_card="models/README.md")
        ).encode(),
        bundle / "docs" / "data_license.txt": (facts.data_license.rstrip() + "\n").encode(),
    }


def refresh_template(bundle: Path, changelog: Path) -> list[Path]:
    """Write the files of ``template_files`` that have changed.

    Args:
        bundle: the bundle folder.
        changelog: the project's changelog.

    Returns:
        The files that were written.
    """
    stale = {
        path: content
        for path, content in template_files(bundle, changelog).items()
        if not path.is_file() or path.read_bytes() != content
    }
    for path, content in stale.items():
        with atomic_write(path) as file:
            file.write(content)
    return list(stale)
