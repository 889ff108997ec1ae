"""Benchmark: DICOM objects of a mask with many labels, on a synthetic CT series; how their cost grows."""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.measure import Contender, Measurement, Step, measure
from dynunet_bundle.dicom_input.series import load_series
from dynunet_bundle.dicom_output.object import Algorithm
from dynunet_bundle.dicom_output.rtstruct import write_rtstruct
from dynunet_bundle.dicom_output.seg import write_seg
from dynunet_bundle.dicom_output.structured_report import write_measurements
from dynunet_bundle.errors import ConfigError

SPACING_MM = 0.8
MAX_LABELS = 255
KINDS = ("seg", "rtstruct", "report")
"""Objects to measure, in this order: the report is read from the segmentation."""


def run(
    shapes: Sequence[Sequence[int]], num_labels: Sequence[int], work_dir: Path, core: int
) -> dict[str, list[Measurement]]:
    """Measure each kind of object for each shape with the most labels, and for the largest shape with each number.

    Time and peak memory are those of a process that reads the mask and the headers of the series and writes the object.

    Args:
        shapes: columns, rows and slices of the series.
        num_labels: numbers of labels.
        work_dir: an empty folder.
        core: CPU core to run on.

    Raises:
        ConfigError: if there are more labels than ``MAX_LABELS``.
    """
    if max(num_labels) > MAX_LABELS:
        raise ConfigError(
            f"--labels is {max(num_labels)}, but at most {MAX_LABELS} are measured. Pass fewer."
        )
    largest = max(shapes, key=lambda shape: int(np.prod(shape)))
    points = [(tuple(shape), max(num_labels)) for shape in shapes]
    points += [(tuple(largest), number) for number in num_labels]
    sections: dict[str, list[Measurement]] = {kind: [] for kind in KINDS}
    for index, (shape, number) in enumerate(dict.fromkeys(points)):
        folder = work_dir / str(index)
        write_series(folder / "series", shape)
        np.save(folder / "mask.npy", make_mask(shape, number))
        title = f"{'x'.join(map(str, shape))}, {number} labels"
        for kind in KINDS:
            command = (sys.executable, "-m", "benchmarks.objects", kind, str(folder))
            sections[kind].append(measure(Contender(title, (Step(command),)), core))
    return sections


def write_series(folder: Path, shape: Sequence[int], seed: int = 0) -> None:
    """Write a CT series of noise.

    Args:
        folder: a new folder for the files.
        shape: columns, rows and slices.
        seed: equal seeds give equal pixels.
    """
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    columns, rows, slices = shape
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    for index in range(slices):
        image = Dataset()
        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = CTImageStorage
        image.SOPInstanceUID = generate_uid()
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
        image.StudyInstanceUID, image.SeriesInstanceUID = study, series
        image.FrameOfReferenceUID = frame
        image.Modality, image.PatientID, image.PatientName = "CT", "synthetic", "Synthetic"
        image.SeriesNumber, image.InstanceNumber = 1, index + 1
        image.ImagePositionPatient = [0.0, 0.0, index * SPACING_MM]
        image.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        image.PixelSpacing, image.SliceThickness = [SPACING_MM, SPACING_MM], SPACING_MM
        image.Rows, image.Columns, image.SamplesPerPixel = rows, columns, 1
        image.PhotometricInterpretation = "MONOCHROME2"
        image.BitsAllocated, image.BitsStored, image.HighBit = 16, 16, 15
        image.PixelRepresentation, image.RescaleSlope, image.RescaleIntercept = 1, 1, 0
        image.PixelData = rng.integers(-1000, 1000, (rows, columns), np.int16).tobytes()
        image.save_as(folder / f"{index:04d}.dcm", enforce_file_format=True)


def make_mask(shape: Sequence[int], num_labels: int, seed: int = 0) -> np.ndarray:
    """A mask of ellipsoids, one per label, each at most 0.18 of the shape in size.

    Args:
        shape: ``(X, Y, Z)``.
        num_labels: number of labels.
        seed: equal seeds give equal masks.

    Returns:
        ``[X, Y, Z]`` uint8, 0 to ``num_labels``.
    """
    rng = np.random.default_rng(seed)
    mask = np.zeros(shape, np.uint8)
    for label in range(1, num_labels + 1):
        middle = rng.uniform(0.15, 0.85, 3) * shape
        radius = np.maximum(rng.uniform(0.02, 0.09, 3) * shape, 1)
        first = np.maximum((middle - radius).astype(int), 0)
        last = np.minimum((middle + radius).astype(int) + 2, shape)
        box = tuple(map(slice, first, last))
        lines = np.ogrid[box]
        distance = sum(
            ((line - place) / size) ** 2
            for line, place, size in zip(lines, middle, radius, strict=True)
        )
        mask[box][distance < 1] = label
    return mask


def write_object(kind: str, folder: Path) -> None:
    """Write an object of the mask in a folder of ``run``."""
    series = load_series(str(folder / "series"), with_pixels=False)
    algorithm = Algorithm("benchmark", "1")
    segmentation, path = folder / "seg.dcm", folder / f"{kind}.dcm"
    if kind == "report":
        write_measurements(segmentation, series, path, algorithm=algorithm)
        return
    mask = np.load(folder / "mask.npy", allow_pickle=False)
    labels = {"background": 0, **{f"label {value}": value for value in range(1, MAX_LABELS + 1)}}
    write = {"seg": write_seg, "rtstruct": write_rtstruct}[kind]
    write(mask, series, labels, path, algorithm=algorithm)


if __name__ == "__main__":
    write_object(sys.argv[1], Path(sys.argv[2]))
