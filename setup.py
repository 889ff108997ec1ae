"""The build of the wheel; all other settings are in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

BUNDLE = Path("bundle")
PARTS = ("configs", "docs", "models", "LICENSE")


class BuildWithBundle(build_py):
    """Copy the bundle's files into the package, as ``dynunet_bundle/bundle``; pyproject.toml cannot say it."""

    def run(self) -> None:
        """Build the package, and copy unless it is an editable installation, which uses the checkout."""
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib) / "dynunet_bundle" / "bundle"
        for source in (*(BUNDLE / part for part in PARTS), Path("CHANGELOG.md")):
            if source.is_dir():
                kept = shutil.ignore_patterns("earlier_run_*", "checkpoint_last*", "tasks")
                shutil.copytree(source, target / source.name, ignore=kept, dirs_exist_ok=True)
            else:
                shutil.copy2(source, target)


setup(cmdclass={"build_py": BuildWithBundle})
