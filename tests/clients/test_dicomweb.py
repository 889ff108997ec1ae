"""MONAI Label between a DICOMweb server and a viewer: a series comes, its mask goes back as DICOM SEG."""

import io
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from client_bundles import HEAD_TAIL, package_bundle, predict
from helpers.made_dicom import make_series, oblique, straight
from label_server import LABEL, LabelServer
from orthanc import DICOMWEB, Orthanc, orthanc_root
from scipy.ndimage import gaussian_filter

pytestmark = pytest.mark.clients

TOOLS = DICOMWEB / "python" / "dcmqi" / "bin"
LABELS = ("background", "head", "tail")
SERIES = {
    "signed": (np.int16, -200, oblique((1.0, 1.0, 2.5)), {}),
    "rescaled": (np.uint16, 0, straight((1.0, 1.0, 2.5)), {"slopes": 0.37, "intercepts": -10.0}),
}
UIDS = {kind: f"1.2.826.0.1.3680043.{index}" for index, kind in enumerate(SERIES, start=1)}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return package_bundle(tmp_path_factory.mktemp("packages"), HEAD_TAIL)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The series as files."""
    made = {}
    for number, (kind, (dtype, offset, affine, settings)) in enumerate(SERIES.items()):
        # not 26 slices: 65 mm are 32.5 of the plan's voxels, and the server's NIfTI has a rounded affine
        noise = np.random.default_rng(number).normal(400, 120, (40, 34, 27))
        array = (gaussian_filter(noise, 1) + offset).astype(dtype)
        uids = {"series_uid": UIDS[kind], "study_uid": f"{UIDS[kind]}.1"}
        folder = tmp_path_factory.mktemp(kind) / "series"
        made[kind] = make_series(folder, array, affine, **uids, **settings)
    return made


@pytest.fixture(scope="module")
def store(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    root = orthanc_root()
    if root is None or not TOOLS.is_dir():
        pytest.skip("there is no .dicomweb with Orthanc; make test-clients makes it")
    store = Orthanc(tmp_path_factory.mktemp("orthanc"), root)
    try:
        store.wait()
        for folder in folders.values():
            store.store(folder)
        yield store
    finally:
        store.stop()


@pytest.fixture(scope="module")
def server(
    store: Orthanc, bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LabelServer]:
    if not (LABEL / ".installed").is_file():
        pytest.skip("there is no .venv-label; make test-clients makes it")
    variables = {
        "PATH": f"{LABEL / 'bin'}:{TOOLS}:/usr/bin:/bin",
        "MONAI_LABEL_DICOMWEB_SEARCH_FILTER": '{"Modality": "MR"}',
    }
    server = LabelServer(tmp_path_factory.mktemp("label"), [bundle], store.dicomweb, variables)
    try:
        server.wait()
        yield server
    finally:
        server.stop()


def by_position(files: list[bytes]) -> list[pydicom.Dataset]:
    """The slices of a series along the normal of its plane."""
    slices = [pydicom.dcmread(io.BytesIO(file)) for file in files]
    axes = np.array(slices[0].ImageOrientationPatient, float).reshape(2, 3)
    return sorted(slices, key=lambda one: float(np.cross(*axes) @ one.ImagePositionPatient))


def seg_array(segmentation: pydicom.Dataset, image: list[pydicom.Dataset]) -> np.ndarray:
    """Label values ``[X, Y, Z]`` of a DICOM SEG on the grid of the slices of its image."""
    rows = {one.SOPInstanceUID: number for number, one in enumerate(image)}
    values = np.zeros((len(image), image[0].Rows, image[0].Columns), np.uint8)
    for frame, pixels in zip(
        segmentation.PerFrameFunctionalGroupsSequence, segmentation.pixel_array, strict=True
    ):
        source = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        number = frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        values[rows[source]][pixels > 0] = number
    return values.transpose(2, 1, 0)


@pytest.mark.parametrize("kind", SERIES)
def test_a_series_gets_the_segmentation_of_the_command(
    kind: str,
    server: LabelServer,
    store: Orthanc,
    bundle: Path,
    folders: dict[str, Path],
    tmp_path: Path,
) -> None:
    mask = server.infer(HEAD_TAIL, UIDS[kind], tmp_path / "mask.nii.gz")
    predict(bundle, folders[kind], tmp_path / "command")
    (command,) = (tmp_path / "command").glob("*.nii.gz")
    expected = np.asarray(nib.load(command).dataobj)
    np.testing.assert_array_equal(np.asarray(nib.load(mask).dataobj), expected)
    np.testing.assert_allclose(nib.load(mask).affine, nib.load(command).affine, atol=1e-4)
    assert expected.any()

    before = set(store.series(Modality="SEG"))
    # the first item names the first label that the mask has, not label 1
    present = np.unique(expected)[1:].astype(int).tolist()
    path = f"/datastore/label?image={UIDS[kind]}&tag=final"
    server.upload(path, {"label_info": [{"name": LABELS[value]} for value in present]}, label=mask)
    (stored,) = set(store.series(Modality="SEG")) - before
    (file,) = store.instances(stored)
    segmentation = pydicom.dcmread(io.BytesIO(file))
    found = seg_array(segmentation, by_position(store.instances(UIDS[kind])))
    values = [LABELS.index(segment.SegmentLabel) for segment in segmentation.SegmentSequence]
    assert values == present
    np.testing.assert_array_equal(np.array([0, *values])[found], expected)


def test_the_viewer_gets_a_dicom_seg(server: LabelServer, store: Orthanc, tmp_path: Path) -> None:
    before = store.series(Modality="SEG")
    path = tmp_path / "seg.dcm"
    server.infer(
        HEAD_TAIL, UIDS["rescaled"], path, output="dicom_seg", label_info=[{"name": "head"}]
    )
    segmentation = pydicom.dcmread(path)
    reference = segmentation.ReferencedSeriesSequence[0]
    assert segmentation.Modality == "SEG" and reference.SeriesInstanceUID == UIDS["rescaled"]
    assert store.series(Modality="SEG") == before


def test_files_of_dicom_are_refused_with_what_to_do(
    server: LabelServer, folders: dict[str, Path]
) -> None:
    """MONAI Label needs pydicom 2, and the package's own reader pydicom 3."""
    status, answer = server.refusal(HEAD_TAIL, str(folders["signed"]))
    assert status == 400
    assert "DICOM needs pydicom 3" in answer and "send NIfTI, or use a DICOMweb server" in answer
