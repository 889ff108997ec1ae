"""Synthetic DICOM: series with any affine, as single-frame objects or as one Enhanced multi-frame object.

folder = make_series(tmp_path / "ct", volume(), oblique())
file = make_enhanced(tmp_path / "enhanced.dcm", volume(), oblique())
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    SecondaryCaptureImageStorage,
    generate_uid,
)

PATIENT = "Doe^Jane"
"""Patient name, also in the ID and the description, that must not appear in any error or log."""

CLASSES = {"MR": MRImageStorage, "CT": CTImageStorage, "OT": SecondaryCaptureImageStorage}
ENHANCED_CLASSES = {"MR": EnhancedMRImageStorage, "CT": EnhancedCTImageStorage}
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])

Change = Callable[[Dataset, int], Any]


def volume(
    shape: Sequence[int] = (7, 6, 5), low: int = 0, high: int = 1000, dtype: Any = np.int16
) -> np.ndarray:
    """``[X, Y, Z]`` of random integers, no two slices alike."""
    return np.random.default_rng(0).integers(low, high, shape).astype(dtype)


def straight(spacing: Sequence[float] = (0.8, 1.1, 2.5)) -> np.ndarray:
    """Affine in RAS+ of an axial series as from a scanner: x to the left, y to the back, z to the head."""
    affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
    affine[:3, 3] = (40.0, 55.0, -120.0)
    return affine


def oblique(spacing: Sequence[float] = (0.8, 1.1, 2.5), angles: Sequence[float] = (20, -15, 35)):
    """Affine in RAS+ rotated about all three axes, in degrees; slices advance along the normal."""
    turned = np.eye(3)
    for axis, angle in enumerate(np.radians(angles)):
        turn = np.eye(3)
        first, second = (axis + 1) % 3, (axis + 2) % 3
        turn[[first, second], [first, second]] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        turned = turned @ turn
    affine = straight()
    affine[:3, :3] = turned @ np.diag([-1.0, -1.0, 1.0]) @ np.diag(spacing)
    return affine


def place(affine: np.ndarray, index: int) -> dict[str, list[float]]:
    """ImagePositionPatient, ImageOrientationPatient and PixelSpacing of a slice."""
    lps = RAS_TO_LPS @ affine
    sizes = np.linalg.norm(lps[:3, :3], axis=0)
    axes = lps[:3, :2] / sizes[:2]
    return {
        "ImagePositionPatient": [round(x, 6) for x in (lps @ [0, 0, index, 1])[:3].tolist()],
        "ImageOrientationPatient": [round(x, 8) for x in axes.T.ravel().tolist()],
        "PixelSpacing": [float(sizes[1]), float(sizes[0])],
    }


def base(modality: str, series_uid: str | None, study_uid: str | None) -> Dataset:
    """Tags common to all objects of a series; complete enough for writers of derived objects."""
    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.PatientName, header.PatientID = PATIENT, f"id {PATIENT}"
    header.PatientBirthDate, header.PatientSex = "19700101", "F"
    header.StudyInstanceUID = study_uid or generate_uid(entropy_srcs=["study"])
    header.SeriesInstanceUID = series_uid or generate_uid(entropy_srcs=["series"])
    header.FrameOfReferenceUID = generate_uid(entropy_srcs=["frame of reference"])
    header.PositionReferenceIndicator = ""
    header.StudyID, header.AccessionNumber, header.ReferringPhysicianName = "1", "", ""
    header.StudyDate, header.StudyTime = "20260102", "030405"
    header.SeriesNumber, header.SeriesDescription = 3, f"T1 {PATIENT}"
    header.Modality, header.Manufacturer = modality, "made"
    header.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    header.ContentDate, header.ContentTime = "20260102", "030405"
    return header


def set_pixels(header: Dataset, frames: np.ndarray, slope: float, intercept: float) -> None:
    """Set the pixels ``[Z, Y, X]`` of an object."""
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.Rows, header.Columns = frames.shape[1:]
    header.BitsAllocated = header.BitsStored = 8 * frames.dtype.itemsize
    header.HighBit = header.BitsStored - 1
    header.PixelRepresentation = int(frames.dtype.kind == "i")
    if (slope, intercept) != (1.0, 0.0):
        header.RescaleSlope, header.RescaleIntercept, header.RescaleType = slope, intercept, "US"
    header.PixelData = frames.tobytes()
    header["PixelData"].VR = "OB" if frames.dtype.itemsize == 1 else "OW"


def save(header: Dataset, path: Path, syntax: str | None = None) -> Path:
    """Write an object, compressed if ``syntax`` requires it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header.file_meta.MediaStorageSOPClassUID = header.SOPClassUID
    header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID
    if syntax:
        header.compress(syntax, generate_instance_uid=False)
    header.save_as(path, enforce_file_format=True)
    return path


def make_series(
    folder: Path,
    array: np.ndarray,
    affine: np.ndarray,
    *,
    modality: str = "MR",
    slopes: Sequence[float] | float = 1.0,
    intercepts: Sequence[float] | float = 0.0,
    reverse: bool = True,
    start: int = 0,
    syntax: str | None = None,
    series_uid: str | None = None,
    study_uid: str | None = None,
    change: Change | None = None,
    tags: Mapping[str, Any] | None = None,
) -> Path:
    """Write one object per slice.

    Args:
        folder: folder of ``000.dcm``, ``001.dcm``, ...
        array: ``[X, Y, Z]`` stored integers.
        affine: ``[4, 4]`` in RAS+; a sheared one gives a tilted gantry.
        modality: MR, CT, or OT for a secondary capture.
        slopes: RescaleSlope of all slices, or one for each.
        intercepts: RescaleIntercept of all slices, or one for each.
        reverse: number the files in reverse order of the slices.
        start: number of the first file name, to add files to a folder.
        syntax: transfer syntax of the compression.
        series_uid: SeriesInstanceUID.
        study_uid: StudyInstanceUID.
        change: called with each object and its slice before it is written; ``False`` leaves it out.
        tags: further tags of all objects.
    """
    depth = array.shape[2]
    slope, intercept = np.broadcast_to(slopes, depth), np.broadcast_to(intercepts, depth)
    for index in range(depth):
        header = base(modality, series_uid, study_uid)
        header.SOPClassUID = CLASSES[modality]
        header.SOPInstanceUID = generate_uid(
            entropy_srcs=[str(series_uid), str(study_uid), str(start + index)]
        )
        header.InstanceNumber = index + 1
        header.SliceThickness = float(np.linalg.norm(affine[:3, 2]))
        set_pixels(
            header, array[:, :, index].T[np.newaxis], float(slope[index]), float(intercept[index])
        )
        for keyword, value in {**place(affine, index), **(tags or {})}.items():
            setattr(header, keyword, value)
        if change is not None and change(header, index) is False:
            continue
        number = start + (depth - 1 - index if reverse else index)
        save(header, folder / f"{number:03d}.dcm", syntax)
    return folder


def make_enhanced(
    path: Path,
    array: np.ndarray,
    affine: np.ndarray,
    *,
    modality: str = "MR",
    order: Sequence[int] | None = None,
    slopes: Sequence[float] | float = 1.0,
    syntax: str | None = None,
    series_uid: str | None = None,
    study_uid: str | None = None,
    change: Callable[[Dataset], Any] | None = None,
) -> Path:
    """Write one Enhanced multi-frame object.

    Args:
        path: the file.
        array: ``[X, Y, Z]`` stored integers.
        affine: ``[4, 4]`` in RAS+.
        modality: MR or CT.
        order: slice of each frame; backwards by default.
        slopes: RescaleSlope of all slices, or one for each.
        syntax: transfer syntax of the compression.
        series_uid: SeriesInstanceUID.
        study_uid: StudyInstanceUID.
        change: called with the object before it is written.
    """
    slices = list(range(array.shape[2]))[::-1] if order is None else list(order)
    slope = np.broadcast_to(slopes, array.shape[2])
    header = base(modality, series_uid, study_uid)
    header.SOPClassUID, header.InstanceNumber = ENHANCED_CLASSES[modality], 1
    header.SOPInstanceUID = generate_uid(entropy_srcs=[str(series_uid), str(path)])
    header.NumberOfFrames = len(slices)
    set_pixels(header, array[:, :, slices].transpose(2, 1, 0), 1.0, 0.0)
    spot = place(affine, 0)
    header.SharedFunctionalGroupsSequence = Items([Dataset()])
    shared = header.SharedFunctionalGroupsSequence[0]
    shared.PlaneOrientationSequence = item(ImageOrientationPatient=spot["ImageOrientationPatient"])
    shared.PixelMeasuresSequence = item(
        PixelSpacing=spot["PixelSpacing"], SliceThickness=float(np.linalg.norm(affine[:3, 2]))
    )
    header.PerFrameFunctionalGroupsSequence = Items(
        [_group(affine, index, float(slope[index])) for index in slices]
    )
    if change is not None:
        change(header)
    return save(header, path, syntax)


def _group(affine: np.ndarray, index: int, slope: float) -> Dataset:
    group = Dataset()
    group.PlanePositionSequence = item(
        ImagePositionPatient=place(affine, index)["ImagePositionPatient"]
    )
    group.FrameContentSequence = item(StackID="1", InStackPositionNumber=index + 1)
    group.PixelValueTransformationSequence = item(
        RescaleSlope=slope, RescaleIntercept=0.0, RescaleType="US"
    )
    return group


def item(**values: Any) -> Items:
    """A sequence of one item."""
    one = Dataset()
    for keyword, value in values.items():
        setattr(one, keyword, value)
    return Items([one])
