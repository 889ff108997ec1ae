"""Synthetic series for tests of DICOM output: headers, an array of zeros and the affine, as from ``load_series``."""

from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    generate_uid,
)
from scipy.spatial.transform import Rotation

from dynunet_bundle.dicom_input.series import DicomSeries

SHAPE = (13, 11, 7)
"""Shape in which the number of voxels per frame is not a multiple of 8, so frames of bits share bytes."""

AXIAL = np.eye(3)
OBLIQUE = Rotation.from_euler("xyz", [20, -35, 50], degrees=True).as_matrix()
DIRECTIONS = {
    "axial": AXIAL,
    "flipped rows": np.diag([-1.0, 1.0, -1.0]),
    "flipped columns": np.diag([1.0, -1.0, -1.0]),
    "flipped rows and columns": np.diag([-1.0, -1.0, 1.0]),
    "coronal": np.array([[1.0, 0, 0], [0, 0, 1.0], [0, -1.0, 0]]),
    "sagittal": np.array([[0, 0, 1.0], [1.0, 0, 0], [0, 1.0, 0]]),
    "oblique": OBLIQUE,
}
"""Columns: along a row, along a column, and their cross product, LPS+."""

PATIENT = "Secret^Patient"
LABELS = {"background": 0, "liver": 1, "cancer": 2, "odd thing": 5}


def made_series(
    directions: np.ndarray = AXIAL,
    shape: tuple[int, int, int] = SHAPE,
    spacing: tuple[float, float, float] = (0.7, 1.3, 2.5),
    enhanced: bool = False,
    **tags: Any,
) -> DicomSeries:
    """A series of MR images.

    Args:
        directions: ``[3, 3]``, see ``DIRECTIONS``.
        shape: columns, rows, slices.
        spacing: mm between columns, rows and slices.
        enhanced: as one Enhanced MR object, whose frames lie in reverse order.
        tags: set in all headers; None takes one out.
    """
    lps = np.eye(4)
    lps[:3, :3] = directions * spacing
    lps[:3, 3] = [-31.4, 27.1, 100.5]
    places = [lps[:3, 3] + k * lps[:3, 2] for k in range(shape[2])]
    numbers = tuple(range(shape[2], 0, -1)) if enhanced else (1,) * shape[2]
    if enhanced:
        headers = [_enhanced(places[::-1], directions, shape, spacing)]
    else:
        headers = [_single(k, place, directions, shape, spacing) for k, place in enumerate(places)]
    for header in headers:
        for keyword, value in tags.items():
            if value is None:
                header.pop(keyword, None)
            else:
                setattr(header, keyword, value)
    return DicomSeries(
        headers=tuple(headers),
        array=np.zeros((1, *shape), np.int16),
        affine=np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps,
        name="series_00000000",
        frame_numbers=numbers,
    )


def made_mask() -> np.ndarray:
    """Blocks of the values of ``LABELS``, not symmetric along any axis; the first slice is empty."""
    mask = np.zeros(SHAPE, np.uint8)
    mask[1:7, 2:6, 1:4] = 1
    mask[3:5, 3:5, 2] = 2
    mask[8:12, 7:10, 3:7] = 5
    mask[9, 8, 4:6] = 0
    noise = np.random.default_rng(0).random(SHAPE) < 0.05
    noise[..., 0] = False
    mask[noise] = 2
    return mask


def _common(shape: tuple[int, int, int]) -> Dataset:
    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.SpecificCharacterSet = "ISO_IR 100"
    header.PatientName = PATIENT
    header.PatientID = "SECRET-17"
    header.PatientBirthDate = "19340501"
    header.PatientSex = "F"
    header.StudyInstanceUID = generate_uid(entropy_srcs=["study"])
    header.SeriesInstanceUID = generate_uid(entropy_srcs=["series"])
    header.FrameOfReferenceUID = generate_uid(entropy_srcs=["frame of reference"])
    header.PositionReferenceIndicator = ""
    header.StudyID = "7"
    header.StudyDate = "20200119"
    header.StudyTime = "112200"
    header.AccessionNumber = "SECRET-18"
    header.ReferringPhysicianName = "Secret^Doctor"
    header.SeriesNumber = 4
    header.Modality = "MR"
    header.Manufacturer = "Maker"
    header.Columns, header.Rows = shape[:2]
    return header


def _decimal(values: Any) -> list[str]:
    return [f"{value:.10g}"[:16] for value in np.ravel(values)]


def _single(k: int, place: np.ndarray, directions: Any, shape: Any, spacing: Any) -> Dataset:
    header = _common(shape)
    header.SOPClassUID = MRImageStorage
    header.SOPInstanceUID = generate_uid(entropy_srcs=["image", str(k)])
    header.InstanceNumber = k + 1
    header.ImagePositionPatient = _decimal(place)
    header.ImageOrientationPatient = _decimal(directions[:, :2].T)
    header.PixelSpacing = _decimal(spacing[1::-1])
    header.SliceThickness = _decimal(spacing[2])[0]
    return header


def _enhanced(places: Any, directions: Any, shape: Any, spacing: Any) -> Dataset:
    header = _common(shape)
    header.SOPClassUID = EnhancedMRImageStorage
    header.SOPInstanceUID = generate_uid(entropy_srcs=["image"])
    header.NumberOfFrames = len(places)
    orientation, measures, shared = Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = _decimal(directions[:, :2].T)
    measures.PixelSpacing = _decimal(spacing[1::-1])
    measures.SliceThickness = _decimal(spacing[2])[0]
    shared.PlaneOrientationSequence = [orientation]
    shared.PixelMeasuresSequence = [measures]
    header.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for place in places:
        position, frame = Dataset(), Dataset()
        position.ImagePositionPatient = _decimal(place)
        frame.PlanePositionSequence = [position]
        frames.append(frame)
    header.PerFrameFunctionalGroupsSequence = frames
    return header
