"""The series of a DICOM source for the person who chooses one, and which series each output is of.

Both identify patients. The table goes to a terminal; the map is a file that is written on request only.

Stored on disk: the keys of the map.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dynunet_bundle.dataset.cases import absolute, image_files, name_of
from dynunet_bundle.dicom_input.names import is_dicom_input, is_series_name, parse_name, short_name
from dynunet_bundle.dicom_input.scan import Series, scan
from dynunet_bundle.drawing.text_table import text_table
from dynunet_bundle.errors import ConfigError, DatasetError
from dynunet_bundle.files import ensure_writable, write_json

HEADER = ("series", "number", "description", "modality", "plane", "columns x rows x images", "")
DESCRIPTION = HEADER.index("description")


def series_table(source: str, with_descriptions: bool) -> str:
    """The series of a source as a table.

    Args:
        source: folder, zip archive or file.
        with_descriptions: whether to show the descriptions, which may hold names of patients.

    Raises:
        DatasetError: if the source is not DICOM, or a file in it is damaged.
    """
    path = parse_name(source).source
    if not is_dicom_input(absolute(path)):
        raise DatasetError(f"{source} is not DICOM. Pass --input with a DICOM folder, file or zip.")
    found = sorted(scan(path).series, key=lambda one: one.study)
    rows = [list(HEADER), *map(_row, found)]
    if not with_descriptions:
        for row in rows:
            del row[DESCRIPTION]
    left = {0, *((DESCRIPTION,) if with_descriptions else ()), len(rows[0]) - 1}
    return "\n".join(text_table(rows, left=left))


def _row(series: Series) -> list[str]:
    return [
        short_name(series.uid),
        "-" if series.number is None else str(series.number),
        series.description or "-",
        series.modality,
        series.plane or "-",
        " x ".join(map(str, (*series.size, series.num_images))),
        f"not readable: {series.problem}" if series.problem else "",
    ]


def write_series_map(path: Path, cases: Sequence[Mapping[str, Any]]) -> None:
    """Write which series each case, and so each file of its output, was made from; only the user can read the file.

    Args:
        path: JSON file to write.
        cases: the cases.

    Raises:
        ConfigError: if no case is a DICOM series.
        OutputError: if it cannot be written.
    """
    content = {name_of(case): list(map(_origin, _series_of(case))) for case in cases}
    content = {name: origins for name, origins in content.items() if origins}
    if not content:
        raise ConfigError("--series_map is for DICOM, and --input has no series. Leave it out.")
    ensure_writable(path.parent)
    write_json(path, content)
    os.chmod(path, 0o600)


def _series_of(case: Mapping[str, Any]) -> list[str]:
    return [file for file in image_files(case) if is_series_name(file)]


def _origin(name: str) -> dict[str, Any]:
    parsed = parse_name(name)
    series = next(one for one in scan(parsed.source).series if parsed.uid in (None, one.uid))
    return {
        "series_instance_uid": series.uid,
        "study_instance_uid": series.study,
        "series_number": series.number,
        "modality": series.modality,
        "images": series.num_images,
        "source": str(parsed.source),
        "select": dict(parsed.select),
    }
