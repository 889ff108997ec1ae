"""The notebook runs from its first cell to its last, with a shorter training."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import BUNDLE, ROOT

NOTEBOOK = ROOT / "docs" / "tutorial.ipynb"
SHORT = ("EPOCHS, ITERATIONS = 5, 40", "EPOCHS, ITERATIONS = 1, 2")
BASH = "%%bash\n"


def as_script(notebook: Path) -> str:
    """The code cells as one program; a cell of bash becomes a call of bash."""
    parts = ["import subprocess"]
    for cell in json.loads(notebook.read_text())["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] != "code":
            continue
        if text.startswith(BASH):
            commands = text.removeprefix(BASH)
            text = f"subprocess.run(['bash', '-euc', {commands!r}], check=True)"
        parts.append(text)
    script = "\n".join(parts)
    assert SHORT[0] in script
    return script.replace(*SHORT)


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "MPLBACKEND": "Agg",
        "PYTHONPATH": str(BUNDLE),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    }
    (tmp_path / "tutorial.py").write_text(as_script(NOTEBOOK))

    done = subprocess.run(
        [sys.executable, "tutorial.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr[-2000:]
    assert "equal masks" in done.stdout
    assert (tmp_path / "tutorial" / "mask.png").stat().st_size > 1000


def test_the_notebook_has_no_output_and_ends_each_file() -> None:
    content = json.loads(NOTEBOOK.read_text())
    codes = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    assert len(codes) > 8
    assert not any(cell["outputs"] or cell["execution_count"] for cell in codes)
