"""Marks by which a case is recognised later, without its name: hashes of the name and of samples of its image.

Stored on disk: in model.json, so that a model knows on which cases it was trained.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from dynunet_bundle.dataset.cases import Case, image_files, name_of
from dynunet_bundle.shapes import Schema, by_name

SAMPLE_BYTES = 65536
"""Bytes that are read at the start and at the end of an image file; a whole data set would take minutes."""

DIGITS = 16
"""Hexadecimal digits of a mark: 64 bits."""

MARKS_SCHEMA: Schema = by_name({"type": ["string", "null"]})
"""Shape of marks: the mark of the image, or null, by the mark of the name."""

Marks = dict[str, str | None]


def case_marks(cases: Sequence[Case]) -> Marks:
    """Mark of the image of each case, by the mark of its name.

    Args:
        cases: raw cases. An image that is not a plain file, such as a DICOM series, has None.
    """
    return {name_mark(name_of(case)): image_mark(case) for case in cases}


def is_marked(case: Case, marks: Mapping[str, str | None]) -> bool:
    """Whether a case is one of the marked ones: by its image, or by its name if an image has no mark.

    Args:
        case: a raw case.
        marks: as ``case_marks`` gives them.
    """
    mark, name = image_mark(case), name_mark(name_of(case))
    same_image = mark is not None and mark in marks.values()
    return same_image or (name in marks and None in (mark, marks[name]))


def name_mark(name: str) -> str:
    """Mark of the name of a case."""
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:DIGITS]


def image_mark(case: Case) -> str | None:
    """Mark of the files of an image by their sizes, starts and ends; None if they cannot be read as files."""
    digest = hashlib.sha256()
    try:
        for path in map(Path, image_files(case)):
            with path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                digest.update(f"{size} ".encode())
                for start in (0, max(0, size - SAMPLE_BYTES)):
                    file.seek(start)
                    digest.update(file.read(SAMPLE_BYTES))
    except OSError:
        return None
    return digest.hexdigest()[:DIGITS]
