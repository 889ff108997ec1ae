"""Faults of DICOM series: changes of the headers of a good series, and neighbours in its folder.

Each fault says what happened once, and what must happen now.
"""

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset, config, dcmread, dcmwrite
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.sequence import Sequence as Items
from pydicom.tag import Tag

Change = Callable[[Dataset, int, int], Any]

LOCALISER = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
OBJECTS = "mask and objects"
MASK = "mask only"
REFUSED = "refused"

GB2312_NAME = b"Wang^XiaoDong=\x1b$)A\xcd\xf5^\x1b$)A\xd0\xa1\xb6\xab="
"""A name with Chinese characters, see PS3.5 annex K."""

TWISTED = np.array([0.936293, 0.275096, -0.218351, -0.289629, 0.956425, -0.036957])
"""Two perpendicular directions that are not parallel to any axis."""


@dataclass(frozen=True)
class Fault:
    """A fault of a series.

    Attributes:
        spoil: changes the files of a folder.
        before: what happened before the mending of these faults.
        now: ``OBJECTS``, ``MASK`` or ``REFUSED``.
        words: a part of the message, or of the log if the series is read.
    """

    spoil: Callable[[Path], Any]
    before: str
    now: str = OBJECTS
    words: str = ""


def each(change: Change) -> Callable[[Path], None]:
    """A fault that changes all headers: ``change(header, index, number of files)``."""

    def spoil(folder: Path) -> None:
        files = sorted(file for file in folder.iterdir() if file.is_file())
        for index, file in enumerate(files):
            header = dcmread(file)
            change(header, index, len(files))
            before = config.settings.writing_validation_mode
            config.settings.writing_validation_mode = config.IGNORE
            try:
                dcmwrite(file, header)
            finally:
                config.settings.writing_validation_mode = before

    return spoil


def put(header: Dataset, **values: Any) -> None:
    """Set raw values: bytes as they are; ``Items`` for sequences; None deletes the tag."""
    for keyword, value in values.items():
        tag = Tag(tag_for_keyword(keyword))
        if value is None:
            header.pop(tag, None)
        elif isinstance(value, bytes):
            content = value + b" " * (len(value) % 2)
            header[tag] = RawDataElement(
                tag, dictionary_VR(tag), len(content), content, 0, False, True
            )
        else:
            setattr(header, keyword, value)


def all_with(**values: Any) -> Callable[[Path], None]:
    """A fault that sets the same values in all headers."""
    return each(lambda header, index, number: put(header, **values))


def text(character_set: bytes, name: bytes) -> Callable[[Path], None]:
    """A fault that sets the bytes of Specific Character Set and of the name, which pydicom would encode otherwise."""
    marks = b"Z" * len(character_set), b"Y" * len(name)

    def spoil(folder: Path) -> None:
        all_with(SpecificCharacterSet=marks[0].decode(), PatientName=marks[1].decode())(folder)
        for file in folder.iterdir():
            content = file.read_bytes()
            for mark, value in zip(marks, (character_set, name), strict=True):
                content = content.replace(mark, value, 1) if mark else content
            file.write_bytes(content)

    return spoil


def halves(*pairs: tuple[str, bytes, bytes]) -> Callable[[Path], None]:
    """A fault that sets a value in the first half of the files, and another one in the second."""

    def change(header: Dataset, index: int, number: int) -> None:
        for keyword, first, second in pairs:
            put(header, **{keyword: first if index < number / 2 else second})

    return each(change)


def own_study(header: Dataset, index: int, number: int) -> None:
    header.StudyInstanceUID = f"1.2.3.{index + 1}"


def float_pixels(header: Dataset, index: int, number: int) -> None:
    array = header.pixel_array.astype(np.float32)
    for keyword in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
        delattr(header, keyword)
    header.BitsAllocated = 32
    header.FloatPixelData = array.tobytes()


def positions_of(header: Dataset, directions: np.ndarray, place: float) -> list[str]:
    position = np.array([-60.0, 40.0, 15.0]) + place * np.cross(directions[:3], directions[3:])
    return [f"{value:.6f}" for value in position]


def turned(digits: int, jitter_mm: float = 0.0, jitter: float = 0.0) -> Callable[[Path], None]:
    """A fault that turns the series out of all planes, with rounded directions and noise."""

    def change(header: Dataset, index: int, number: int) -> None:
        noise = np.random.default_rng(index)
        place = 2.5 * index
        position = np.array(positions_of(header, TWISTED, place), float)
        position += jitter_mm * noise.uniform(-1, 1, 3)
        directions = TWISTED + jitter * noise.uniform(-1, 1, 6)
        header.ImagePositionPatient = [f"{value:.6f}" for value in position]
        header.ImageOrientationPatient = [f"{value:.{digits}f}" for value in directions]

    return each(change)


def empty_study_reference(header: Dataset, index: int, number: int) -> None:
    header.ReferencedStudySequence = Items([])


def bad_study_reference(header: Dataset, index: int, number: int) -> None:
    reference = Dataset()
    put(reference, ReferencedSOPClassUID=b"1.2.840.10008.3.1.2.3.1", ReferencedSOPInstanceUID=b"x")
    header.ReferencedStudySequence = Items([reference])


def tilted(header: Dataset, index: int, number: int) -> None:
    directions = np.array([1.0, 0, 0, 0, 1, 0])
    header.ImageOrientationPatient = list(directions)
    header.ImagePositionPatient = [0, 1.2 * index, 3 * index]


def time_points(folder: Path) -> None:
    """Four different images at each position, which no tag splits into stacks."""
    for file in sorted(folder.iterdir()):
        header = dcmread(file)
        place = int(header.InstanceNumber)
        for time in range(4):
            header.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID = (
                f"1.2.3.{place}.{time + 1}"
            )
            header.InstanceNumber = 4 * place + time
            header.PixelData = (
                (header.pixel_array + time).astype(header.pixel_array.dtype).tobytes()
            )
            header.save_as(file.with_name(f"{file.stem}_{time}.dcm"))
        file.unlink()


def neighbour(name: str, content: bytes | Callable[[Path], bytes]) -> Callable[[Path], None]:
    """A further file in the folder."""

    def spoil(folder: Path) -> None:
        first = min(folder.iterdir())
        written = content if isinstance(content, bytes) else content(first)
        (folder / name).write_bytes(written)

    return spoil


def deflated_report(file: Path) -> bytes:
    """A structured report of another series, deflated."""
    header = _other(file, "1.2.840.10008.5.1.4.1.1.88.34", Modality="SR")
    for keyword in ("PixelData", "Rows", "Columns", "ImageType"):
        delattr(header, keyword)
    # pydicom deflates what it writes with this syntax
    header.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
    return _written(header)


def cut_localiser(file: Path) -> bytes:
    """A localiser of another series, without its second half."""
    header = _other(file, str(dcmread(file).SOPClassUID), ImageType=LOCALISER)
    content = _written(header)
    return content[: len(content) // 2]


def cut_localiser_header(file: Path) -> bytes:
    """A localiser that ends within its header."""
    return _written(_other(file, str(dcmread(file).SOPClassUID), ImageType=LOCALISER))[:600]


def _other(file: Path, kind: str, **values: Any) -> Dataset:
    header = dcmread(file)
    header.SOPClassUID = header.file_meta.MediaStorageSOPClassUID = kind
    header.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4.5.6"
    header.SeriesInstanceUID = "1.2.3.4.5"
    for keyword, value in values.items():
        setattr(header, keyword, value)
    return header


def _written(header: Dataset) -> bytes:
    buffer = BytesIO()
    header.save_as(buffer)
    return buffer.getvalue()


HTML = b"<!DOCTYPE html><html><body><h1>502 Bad Gateway</h1></body></html>"
DAMAGED = "file 33 of 33 is damaged; exit code 2"
NO_SEG = "no SEG; a ValueError or TypeError in a Python file"
NO_CASE = "cannot find the series"
NOT_READ = "one of its values cannot be read (ValueError)"
WRITTEN = "written"

FAULTS: dict[str, Fault] = {
    # identity
    "patient_differs": Fault(
        halves(("PatientID", b"A", b"B"), ("PatientName", b"A", b"B")),
        WRITTEN + ", for one of the patients",
        REFUSED,
        "two patients",
    ),
    "patient_id_differs": Fault(halves(("PatientID", b"A", b"B")), WRITTEN, REFUSED, "PatientID"),
    "sopclass_differs": Fault(
        halves(
            ("SOPClassUID", b"1.2.840.10008.5.1.4.1.1.4", b"1.2.840.10008.5.1.4.1.1.2"),
        ),
        WRITTEN,
        REFUSED,
        "SOPClassUID",
    ),
    "modality_differs": Fault(halves(("Modality", b"MR", b"CT")), WRITTEN, REFUSED, "Modality"),
    "sop_dup": Fault(all_with(SOPInstanceUID=b"1.2.3.4"), WRITTEN, MASK, "SOPInstanceUID"),
    "study_uids": Fault(each(own_study), "ValueError in image.py", MASK, "StudyInstanceUID"),
    "series_uid_long": Fault(
        all_with(SeriesInstanceUID=b"1." + b"2" * 70), NO_CASE, MASK, "SeriesInstanceUID"
    ),
    "series_uid_letters": Fault(
        all_with(SeriesInstanceUID=b"1.2.abc.Doe"), NO_CASE, MASK, "SeriesInstanceUID"
    ),
    "study_uid_letters": Fault(
        all_with(StudyInstanceUID=b"x.y"), WRITTEN, MASK, "StudyInstanceUID"
    ),
    "study_uid_zero": Fault(
        all_with(StudyInstanceUID=b"1.2.003.4"), "written, not valid", MASK, "StudyInstanceUID"
    ),
    "series_uid_points": Fault(
        all_with(SeriesInstanceUID=b"1..2.3"), "written, not valid", MASK, "SeriesInstanceUID"
    ),
    "sop_uid_zero": Fault(
        each(lambda header, index, number: put(header, SOPInstanceUID=f"1.2.0{index}".encode())),
        "written, not valid",
        MASK,
        "SOPInstanceUID",
    ),
    "frame_uid_zero": Fault(all_with(FrameOfReferenceUID=b"1.2.003.4"), "written, not valid"),
    # text
    "ir100_single": Fault(all_with(SpecificCharacterSet=b"ISO 2022 IR 100"), NO_SEG),
    "ir6_single": Fault(all_with(SpecificCharacterSet=b"ISO 2022 IR 6"), NO_SEG),
    "gb2312": Fault(text(b"\\ISO 2022 IR 58", GB2312_NAME), "escape bytes in the name"),
    "gbk": Fault(text(b"GBK", "张^小东".encode("gbk")), WRITTEN),
    "unknown_set": Fault(text(b"KLINGON", "Müller".encode()), "written, wrong letters"),
    "bad_utf8": Fault(text(b"ISO_IR 192", b"M\xfcller"), "written, wrong letters"),
    "ascii_umlaut": Fault(text(b"ISO_IR 6", b"M\xfcller"), "written, wrong letters"),
    "gb2312_unescaped": Fault(
        text(b"\\ISO 2022 IR 58", "张^小东".encode("gb2312")), "written, wrong letters"
    ),
    "no_set_umlaut": Fault(text(b"", b"M\xfcller"), "written, wrong letters"),
    "two_names": Fault(all_with(PatientName=b"Doe^Jane\\Doe^J"), NO_SEG),
    # numbers
    "series_number_text": Fault(all_with(SeriesNumber=b"12a"), NO_SEG),
    "series_number_large": Fault(all_with(SeriesNumber=b"2147483647"), "a number beyond 2^31"),
    "series_number_negative": Fault(all_with(SeriesNumber=b"-5"), WRITTEN),
    "thickness_comma": Fault(all_with(SliceThickness=b"3,0"), NOT_READ),
    "thickness_zero": Fault(all_with(SliceThickness=b"0"), WRITTEN),
    "age_42": Fault(all_with(PatientAge=b"42"), "written, not valid"),
    "age_stars": Fault(all_with(PatientAge=b"***"), "written, not valid"),
    "age_0Y": Fault(all_with(PatientAge=b"0Y"), "written, not valid"),
    "weight_text": Fault(all_with(PatientWeight=b"heavy"), WRITTEN),
    "number_too_large": Fault(
        all_with(SpacingBetweenSlices=b"1e400", PatientSize=b"1e999"), "written, not valid"
    ),
    "not_enumerated": Fault(
        all_with(PatientIdentityRemoved=b"MAYBE", SmokingStatus=b"OFTEN"), "written, not valid"
    ),
    "date_stars": Fault(all_with(StudyDate=b"***", PatientBirthDate=b"19701399"), WRITTEN),
    "slope_zero": Fault(
        all_with(RescaleSlope=b"0", RescaleIntercept=b"0"), "its image is constant"
    ),
    "slope_comma": Fault(
        all_with(RescaleSlope=b"1,5", RescaleIntercept=b"0"), NOT_READ, REFUSED, "RescaleSlope"
    ),
    "position_text": Fault(
        all_with(ImagePositionPatient=b"a\\b\\c"), "refused", REFUSED, "ImagePositionPatient"
    ),
    "echo_text": Fault(all_with(EchoTime=b"4,5"), WRITTEN),
    # structure
    "float_pixels": Fault(each(float_pixels), "has no pixels"),
    "empty_study_reference": Fault(each(empty_study_reference), "written, not valid"),
    "bad_study_reference": Fault(each(bad_study_reference), "written, not valid"),
    "three_decimals": Fault(turned(3), "written, not orthogonal"),
    "jitter": Fault(turned(6, jitter_mm=0.02, jitter=5e-5), "written, uneven"),
    "tilt": Fault(each(tilted), "Resample it with a tool", REFUSED, "dcm2niix"),
    "time_points": Fault(time_points, "Remove the wrong images", REFUSED, "4 time points"),
    "mosaic": Fault(
        all_with(ImageType=b"ORIGINAL\\PRIMARY\\M\\VFRAME"),
        "an image lacks ImagePositionPatient",
        REFUSED,
        "mosaic",
    ),
    # neighbours
    "empty_file": Fault(neighbour("empty.dcm", b""), DAMAGED, OBJECTS, "skipped"),
    "html_page": Fault(neighbour("page.dcm", HTML), DAMAGED, OBJECTS, "skipped"),
    "deflated_report": Fault(neighbour("report.dcm", deflated_report), DAMAGED, OBJECTS, "skipped"),
    "cut_localiser": Fault(neighbour("scout.dcm", cut_localiser), WRITTEN),
    "cut_localiser_header": Fault(
        neighbour("scout.dcm", cut_localiser_header), DAMAGED, OBJECTS, "skipped"
    ),
}
