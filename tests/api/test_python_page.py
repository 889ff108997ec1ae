"""The examples of docs/python.md run as they stand there, and the package is as light as it says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import BUNDLE, ROOT

import dynunet_bundle

PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.S)


@pytest.fixture
def work_folder(tmp_path: Path, phantom: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the data and the package of the page."""
    (tmp_path / "DATA").mkdir()
    (tmp_path / "DATA" / "Task04_Hippocampus").symlink_to(phantom)
    (tmp_path / "dist" / "hippocampus_mr_segmentation").mkdir(parents=True)
    (tmp_path / "dist" / "hippocampus_mr_segmentation" / "models").symlink_to(BUNDLE / "models")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_examples_run(work_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = "\n".join(BLOCKS)
    exec(compile(program, "docs/python.md", "exec"), {"__name__": "example"})  # noqa: S102
    printed = re.search(r"print\(error\)  # (.*)", PAGE)
    assert printed and capsys.readouterr().out.strip() == printed[1]
    assert (work_folder / "WORK" / "scores.json").is_file()
    written = {path.name for path in work_folder.iterdir()}
    assert written == {"DATA", "dist", "WORK"}


def test_importing_the_package_loads_nothing() -> None:
    program = (
        "import sys, dynunet_bundle\n"
        "assert 'Predictor' in dir(dynunet_bundle)\n"
        "print([name for name in ('torch', 'monai', 'numpy') if name in sys.modules])\n"
        "from dynunet_bundle import plan\n"
        "print([name for name in ('torch', 'monai', 'numpy') if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(BUNDLE)},
    )
    assert done.stdout.splitlines() == ["[]", "[]"]


def test_the_page_lists_the_public_names() -> None:
    for name in dynunet_bundle.__all__:
        assert f"`{name}`" in PAGE and callable(getattr(dynunet_bundle, name))
    with pytest.raises(AttributeError, match="no attribute 'Predict'"):
        dynunet_bundle.Predict  # noqa: B018 - the attribute is asked for
