"""Run predict.py on faulty DICOM series, and print a table: input, what happened once, what happens now.

    python tests/faults/dicom_table.py --data ../shared/data

Inputs are the folders of DATA/faults/dicom, and a good series with each of the faults of ``FAULTS``. The
good series is a real one of DATA, or synthetic without DATA. Exit code 1: a result is not the expected one.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import highdicom.seg

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(folder) for folder in (HERE, HERE.parent) if str(folder) not in sys.path]

from conftest import run_script  # noqa: E402
from helpers.dicom_faults import FAULTS, MASK, OBJECTS, REFUSED, Fault  # noqa: E402
from helpers.made_dicom import make_series, straight, volume  # noqa: E402
from helpers.predictions import THRESHOLD_PLAN, threshold_weights  # noqa: E402

from dynunet_bundle.drawing.text_table import text_table  # noqa: E402

GOOD_SERIES = "dicom/Study1/13_HCropVolume"
KINDS = ("seg", "rtstruct", "report")
EXIT_CODES = {OBJECTS: 0, MASK: 1, REFUSED: 2}

REAL: dict[str, Fault] = {
    "enh_no_shared": Fault(lambda folder: None, "no SEG: AttributeError in dataset.py"),
    "rtutils_study_uids": Fault(
        lambda folder: None, "ValueError in image.py", MASK, "StudyInstanceUID"
    ),
    "ge_fmri_4d": Fault(lambda folder: None, "Take out the wrong ones", REFUSED, "4 time points"),
    "jpeg12": Fault(lambda folder: None, "Send the series again", REFUSED, "12-bit JPEG"),
    "uih_mosaic": Fault(
        lambda folder: None, "lacks ImagePositionPatient", REFUSED, "mosaics of slices"
    ),
}
"""What the folders of DATA/faults/dicom must give."""


class Found(NamedTuple):
    """Result of a run: ``OBJECTS``, ``MASK`` or ``REFUSED``; message, exit code and folder of the results."""

    result: str
    message: str
    exit_code: int
    output: Path


def predict(source: Path, folder: Path) -> Found:
    """Run predict.py on a folder of one series, with a network that gives class 1 everywhere."""
    weights, plan, output = folder / "model.pt", folder / "plan.json", folder / "out"
    threshold_weights(weights, low=-1e6, high=1e9)
    plan.write_text(json.dumps(THRESHOLD_PLAN))
    done = run_script(
        "predict",
        *("--input", source, "--output_dir", output, "--model", weights, "--config_file", plan),
        *("--trust", "--dicom", *KINDS),
    )
    files = {path.name.partition(".")[2]: path for path in output.glob("series_*")}
    result = REFUSED
    if "nii.gz" in files:
        result = OBJECTS if {f"{kind}.dcm" for kind in KINDS} <= set(files) else MASK
    error = " ".join(done.stderr.partition("error: ")[2].split())
    skipped = re.search("skipped in the DICOM input: .*", done.stdout + done.stderr)
    message = error or (skipped[0] if skipped else "")
    if result == OBJECTS:
        message += " ".join(invalid(files[f"{kind}.dcm"]) for kind in KINDS)
    return Found(result, message.strip(), done.returncode, output)


def invalid(path: Path) -> str:
    """What highdicom and dciodvfy (if it is installed) find in an object; empty if nothing."""
    if path.name.endswith(".seg.dcm"):
        highdicom.seg.segread(path).get_volume()
    if shutil.which("dciodvfy") is None:
        return ""
    said = subprocess.run(
        ["dciodvfy", str(path)], capture_output=True, text=True, errors="replace", check=False
    )
    return " ".join(line for line in said.stderr.splitlines() if line.startswith("Error"))


def is_expected(fault: Fault, found: Found) -> bool:
    """Whether a run gave what it must."""
    return (
        found.result == fault.now
        and found.exit_code == EXIT_CODES[fault.now]
        and fault.words in found.message
        and not re.search(r"\.py\b|Error - ", found.message)
    )


def good_series(data: Path | None, folder: Path) -> Path:
    """A copy of a good series, its files writable."""
    if data is None:
        return make_series(folder, volume((16, 14, 8)), straight(), reverse=False)
    shutil.copytree(data / GOOD_SERIES, folder)
    for path in (folder, *folder.iterdir()):
        path.chmod(0o700)
    return folder


def runs(data: Path | None) -> Iterator[tuple[str, Fault, Callable[[Path], Path]]]:
    """Name, fault and a function that makes the input."""
    for name, fault in REAL.items() if data else ():
        source = data / "faults" / "dicom" / name if data else Path()
        yield name, fault, lambda folder, source=source: source
    for name, fault in FAULTS.items():

        def make(folder: Path, fault: Fault = fault) -> Path:
            fault.spoil(series := good_series(data, folder / "in"))
            return series

        yield name, fault, make


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder of real data")
    parser.add_argument("--only", default="", help="inputs whose names contain this")
    arguments = parser.parse_args()
    data = arguments.data if arguments.data and arguments.data.is_dir() else None
    rows = []
    with tempfile.TemporaryDirectory() as place:
        for number, (name, fault, make) in enumerate(runs(data)):
            if arguments.only not in name:
                continue
            folder = Path(place) / str(number)
            folder.mkdir()
            found = predict(make(folder), folder)
            good = "" if is_expected(fault, found) else "WRONG: "
            now = f"{found.result}, exit code {found.exit_code}"
            rows.append((name, fault.before, f"{good}{now}", found.message))
            print(f"{name}: {good}{now}", file=sys.stderr, flush=True)
    header = ("Input", "Before", "Now", "Message")
    print("\n".join(text_table([header, *rows], left=range(len(header)))))
    return int(any(row[2].startswith("WRONG") for row in rows))


if __name__ == "__main__":
    sys.exit(main())
