"""A header that promises more than is allowed is refused before memory is taken, by case and with the way out."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import BUNDLE, save_nifti, save_picture
from monai.data import MetaTensor
from spoiled_files import extension_bomb, gzip_bomb, meta, nifti, nrrd, png

import dynunet_bundle.preprocessing.resample as resample_module
from dynunet_bundle.configs.workflow import load_workflow
from dynunet_bundle.dataset.case_errors import apply_to_case
from dynunet_bundle.errors import BundleError, CaseError, ConfigError
from dynunet_bundle.images.nifti import load_nifti
from dynunet_bundle.images.read import read_volume
from dynunet_bundle.machine import limits
from dynunet_bundle.machine.limits import max_image_bytes, require_room
from dynunet_bundle.preprocessing.resample import ResampleToSpacingd

READ = """
import resource, sys
from pathlib import Path
import dynunet_bundle.images.simpleitk
from dynunet_bundle.errors import CaseError
from dynunet_bundle.images.read import read_volume
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + (256 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[1:]:
    try:
        read_volume(path)
    except CaseError as error:
        print(f"{Path(path).name}: {error}")
    else:
        print(f"{Path(path).name} was read")
print("took", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, "kB")
"""
"""Reads files with 256 MiB of address space to spare; the largest array that it may read is twice that."""


BOMBS: dict[str, Callable[[Path], Path]] = {
    "many.nii": lambda path: nifti(path, [16384, 8192, 8192]),
    "many.nii.gz": lambda path: nifti(path, [16384, 8192, 8192]),
    "overflow.nii": lambda path: nifti(path, [2**31, 2**31, 4]),
    "channels.nii": lambda path: nifti(path, [1024, 1024, 1024, 1024]),
    "bomb.nii.gz": gzip_bomb,
    "cut.nii.gz": lambda path: nifti(path, [512, 512, 512]),
    "cut.nii": lambda path: nifti(path, [512, 512, 512]),
    "far.nii.gz": lambda path: nifti(path, vox_offset=2e9),
    "many.nrrd": lambda path: nrrd(path, "16384 8192 8192"),
    "overflow.nrrd": lambda path: nrrd(path, "2147483647 2147483647 4"),
    "many.mha": lambda path: meta(path, "16384 8192 8192"),
    "wide.mha": lambda path: meta(path, "2048 2048 1024", ElementNumberOfChannels="4"),
    "wide.png": png,
}


def test_bombs_are_refused_before_memory_is_taken(tmp_path):
    files = [make(tmp_path / name) for name, make in BOMBS.items()]
    done = subprocess.run(
        [sys.executable, "-c", READ, *map(str, files)], capture_output=True, text=True, check=False
    )
    *lines, last = done.stdout.splitlines()
    assert len(lines) == len(files), done.stderr[-2000:]
    for file, line in zip(files, lines, strict=True):
        case = file.name.split(".")[0]
        assert line.startswith(f"{file.name}: case {case}: "), line
        if case in ("cut", "far"):
            assert "truncated" in line and "Replace the damaged file." in line
        else:
            assert "GiB are allowed" in line and "DYNUNET_MAX_IMAGE_GIB" in line
    # of the 100 MB that it would take to read the smallest of them, nothing
    assert int(last.split()[1]) < 50_000, last


@pytest.mark.parametrize("size", [0, 8, -5, 1 << 30, 64])
def test_extensions_are_passed_over(tmp_path, size):
    found, _ = read_volume(extension_bomb(tmp_path / "a.nii.gz", size, num_zeros=0))
    np.testing.assert_array_equal(found[0], np.arange(64).reshape(4, 4, 4))


def test_a_stream_that_goes_on_behind_the_voxels_is_not_read_to_its_end(tmp_path):
    with pytest.raises(OSError, match="other data after its voxels"):
        read_volume(extension_bomb(tmp_path / "a.nii.gz", 64))


@pytest.mark.parametrize(
    ("kind", "suffix"), [(nib.Nifti1Image, "nii"), (nib.Nifti2Image, "nii.gz")]
)
@pytest.mark.parametrize("big_endian", [False, True])
def test_what_is_well_is_opened_as_nibabel_does(tmp_path, kind, suffix, big_endian):
    path = tmp_path / f"a.{suffix}"
    affine = np.array([[0, -1.5, 0, 3], [2, 0, 0, -4], [0, 0, 3, 5], [0, 0, 0, 1]], float)
    header = kind.header_class(endianness=">" if big_endian else "<")
    header.set_data_dtype(np.int16)
    image = kind(np.arange(60).reshape(5, 4, 3).astype(np.int16), affine, header)
    image.set_qform(affine + np.diag([0, 0, 0, 0]), code=1)
    image.set_sform(affine, code=4)
    image.header.set_slope_inter(2, -3)
    nib.save(image, path)
    ours, theirs = load_nifti(path), nib.load(path)
    assert type(ours) is type(theirs) and ours.header == theirs.header
    assert ours.get_filename() == theirs.get_filename()
    np.testing.assert_array_equal(ours.affine, theirs.affine)
    np.testing.assert_array_equal(np.asanyarray(ours.dataobj), np.asanyarray(theirs.dataobj))


@pytest.mark.parametrize(
    "fields", [{"xyzt_units": 7}, {"quatern_b": np.nan}, {"quatern_b": 2.0, "quatern_c": 2.0}]
)
def test_codes_that_nibabel_cannot_copy_are_forgotten(tmp_path, fields):
    path = nifti(tmp_path / "a.nii.gz", sform_code=1, qform_code=1, srow_x=[1, 0, 0, 5], **fields)
    header = load_nifti(path).header
    assert header.get_xyzt_units()[1] in ("unknown", "sec")
    qform, code = header.get_qform(coded=True)
    assert code == 0 or np.isfinite(qform).all()
    assert read_volume(path).affine[0, 3] == 5


@pytest.mark.parametrize("fields", [{"quatern_b": np.nan}, {"quatern_b": 2.0, "quatern_c": 2.0}])
def test_a_place_that_only_a_damaged_qform_has_is_refused(tmp_path, fields):
    with pytest.raises(ValueError, match="case a|w2 should be positive"):
        read_volume(nifti(tmp_path / "a.nii", sform_code=0, qform_code=1, **fields))


@pytest.fixture(scope="module")
def preprocess() -> Callable[[Path], Any]:
    """The preprocessing of inference.json on one file."""
    parser = load_workflow(BUNDLE, "inference.json").parser
    transform = parser.get_parsed_content("preprocessing")
    return lambda path: apply_to_case({"image": str(path)}, transform)


# --- the limit


def test_the_limit_is_that_of_dicom(tmp_path, monkeypatch):
    path = save_nifti(tmp_path / "a.nii.gz", np.ones((64, 64, 64), np.float32))
    monkeypatch.setenv("DYNUNET_MAX_IMAGE_GIB", str(2**20 / 2**30))
    assert read_volume(path).array.nbytes == max_image_bytes() == 2**20
    monkeypatch.setenv("DYNUNET_MAX_IMAGE_GIB", str((2**20 - 1) / 2**30))
    with pytest.raises(CaseError, match="case a: its headers promise 64x64x64 voxels"):
        read_volume(path)
    monkeypatch.setenv("DYNUNET_MAX_IMAGE_GIB", "none")
    with pytest.raises(ConfigError, match="DYNUNET_MAX_IMAGE_GIB"):
        read_volume(path)


def test_voxels_that_are_scaled_count_as_float32(tmp_path, monkeypatch):
    image = nib.Nifti1Image(np.ones((64, 64, 64), np.uint8), np.eye(4))
    image.header.set_slope_inter(0.5, 0)
    nib.save(image, tmp_path / "a.nii")
    monkeypatch.setenv("DYNUNET_MAX_IMAGE_GIB", str(2**18 / 2**30))
    with pytest.raises(CaseError, match="GiB are allowed"):
        read_volume(tmp_path / "a.nii")


def test_nothing_overflows():
    with pytest.raises(CaseError):
        require_room("a", (2**31, 2**31, 2**31), 8)
    with pytest.raises(CaseError):
        require_room("a", (-(2**31), 2**31, 4), 8)
    with pytest.raises(CaseError):
        require_room("a", (np.int32(2**30), np.int32(2**30), np.int32(16)), 1)


@pytest.mark.parametrize("suffix", ["bmp", "png", "tif"])
def test_pictures_have_the_limit_too(tmp_path, monkeypatch, suffix):
    path = save_picture(tmp_path / f"a.{suffix}", np.zeros((64, 64, 3), np.uint8))
    assert read_volume(path).array.shape == (3, 64, 64, 1)
    monkeypatch.setenv("DYNUNET_MAX_IMAGE_GIB", str(3 * 64 * 63 / 2**30))
    with pytest.raises(CaseError, match="case a: .*GiB are allowed"):
        read_volume(path)


def test_an_axis_that_monai_cannot_count_is_refused(tmp_path, preprocess):
    array = np.arange(2 * 32767, dtype=np.uint16).reshape(2, -1, 1) % 1000
    kept = nib.Nifti1Image(array, np.eye(4))
    nib.save(kept, tmp_path / "a.nii")
    assert preprocess(tmp_path / "a.nii")["image"].shape[2] > 32000
    longer = nib.Nifti2Image(np.pad(array, ((0, 0), (0, 1), (0, 0))), np.eye(4))
    nib.save(longer, tmp_path / "b.nii")
    with pytest.raises(CaseError, match="case b: it has 32768 voxels along an axis"):
        preprocess(tmp_path / "b.nii")


# --- places that are none


def geometry(path: Path, affine: np.ndarray) -> Path:
    image = nib.Nifti1Image(np.arange(8000, dtype=np.float32).reshape(20, 20, 20), None)
    image.header.set_sform(affine, code=1)
    path.write_bytes(image.to_bytes())
    return path


@pytest.mark.parametrize(
    "affine",
    [
        np.diag([np.nan, 1, 1, 1]),
        np.diag([1, np.inf, 1, 1]),
        np.diag([1.0, 0, 1, 1]),
        np.diag([1e-7, 1e-7, 1e-7, 1]),
        np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]),
    ],
    ids=["NaN", "infinite", "zero", "almost zero", "flat"],
)
def test_a_place_that_is_none_is_refused(tmp_path, preprocess, affine):
    with pytest.raises(CaseError, match="case a: .*(span a volume|NaN, infinite or larger)"):
        preprocess(geometry(tmp_path / "a.nii", affine))


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("a.nrrd", {"spacings": "0 1 1"}),
        ("a.nrrd", {"spacings": "nan 1 1"}),
        (
            "a.nrrd",
            {"space": "left-posterior-superior", "space_directions": "(0,0,0) (0,1,0) (0,0,1)"},
        ),
        ("a.mha", {"ElementSpacing": "0 1 1"}),
        ("a.mha", {"ElementSpacing": "nan 1 1"}),
        ("a.mha", {"Offset": "inf 0 0"}),
        ("a.mha", {"TransformMatrix": "1 0 0 1 0 0 0 0 1"}),
        ("a.mha", {"TransformMatrix": "nan 0 0 0 1 0 0 0 1"}),
    ],
)
def test_spacings_and_directions_that_are_none(tmp_path, preprocess, name, fields):
    path = (nrrd if name == "a.nrrd" else meta)(tmp_path / name, **fields)
    path.write_bytes(path.read_bytes()[:-64] + bytes(range(64)))
    try:
        found = preprocess(path)
    except BundleError as error:
        assert "case a" in str(error)
    else:
        # what SimpleITK takes for a missing spacing
        assert np.isfinite(np.asarray(found["image"].affine)).all()


@pytest.mark.parametrize("spacing", [1e3, 1e6, 1e30, 1e200])
def test_voxels_of_a_kilometre_do_not_take_all_memory(tmp_path, preprocess, spacing):
    with pytest.raises(CaseError, match="case a: "):
        preprocess(geometry(tmp_path / "a.nii", np.diag([spacing, spacing, spacing, 1])))


# --- spacings that the plan cannot mean, and those that it can


def resample(shape: tuple[int, ...], spacing: tuple[float, ...], plan: tuple[float, ...]) -> Any:
    """Resample an image that takes no memory."""
    voxels = torch.zeros(1, 1, 1, 1).expand(1, *shape)
    image = MetaTensor(voxels, affine=torch.diag(torch.tensor([*spacing, 1.0])))
    return ResampleToSpacingd("image", plan)({"image": image})


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [
        ((20, 20, 20), (300, 300, 0.001)),
        ((20, 20, 20), (1000, 1000, 1000)),
        ((40, 40, 40), (0.001, 0.001, 0.001)),
        ((40, 40, 40), (1, 1, 0.001)),
        ((512, 512, 1500), (20, 20, 20)),
    ],
)
def test_voxels_that_do_not_fit_the_plan_are_refused_with_both_spacings(shape, spacing):
    with pytest.raises(CaseError, match="mm do not fit the plan's spacing, 1 x 1 x 1 mm") as error:
        resample(shape, spacing, (1, 1, 1))
    assert " x ".join(f"{mm:g}" for mm in spacing) in str(error.value)
    assert "Correct the spacing in its header" in str(error.value)


class ResizedError(Exception):
    """Raised where memory would be taken."""


@pytest.mark.parametrize(
    ("shape", "spacing", "plan"),
    [
        ((600, 600, 600), (0.3, 0.3, 0.3), (1, 1, 1)),
        ((600, 600, 600), (0.3, 0.3, 0.3), (0.3, 0.3, 0.3)),
        ((1500, 512, 512), (1, 0.98, 0.98), (1.5, 1.5, 1.5)),
        ((1500, 512, 512), (1, 0.98, 0.98), (0.5, 0.5, 0.5)),
        ((30, 256, 256), (10, 1, 1), (0.3, 0.3, 0.3)),
        ((400, 400, 400), (0.08, 0.08, 0.08), (10, 1, 1)),
        ((1, 20_000, 20_000), (1, 1, 1), (1, 1)),
        ((1, 512, 512), (0.001, 0.5, 0.5), (5, 0.5, 0.5)),
        ((9, 300, 300), (7.5, 0.5, 0.5), (1, 1, 1)),
        ((100, 2000, 2000), (5e-5, 5e-6, 5e-6), (5e-5, 5e-6, 5e-6)),
    ],
)
def test_clinical_images_are_not_refused(monkeypatch, shape, spacing, plan):
    def resized(*_: Any) -> None:
        raise ResizedError

    monkeypatch.setattr(resample_module, "resize", resized)
    monkeypatch.setattr(limits, "available_bytes", lambda: 32 * limits.GIB)
    with pytest.raises(ResizedError):
        resample(shape, spacing, plan)


# --- the memory that is there


def test_what_is_resampled_fits_into_memory(monkeypatch):
    monkeypatch.setattr(limits, "available_bytes", lambda: 2 * limits.GIB)
    with pytest.raises(MemoryError, match=r"1000 x 1000 x 1000 .* 3\.73 GiB; 2 GiB are available"):
        resample((500, 500, 500), (2, 2, 2), (1, 1, 1))


def system(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


MEMINFO = "MemTotal: 64000 kB\nMemFree: 100 kB\nMemAvailable:   32000 kB\nSwapFree: 8000 kB\n"


@pytest.mark.parametrize(
    ("files", "kib"),
    [
        ({}, 40_000),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n"}, 40_000),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/memory.max": f"{30_000 << 10}\n",
                "sys/fs/cgroup/a/memory.current": f"{20_000 << 10}\n",
                "sys/fs/cgroup/a/memory.stat": f"anon 1\ninactive_file {5000 << 10}\n",
                "sys/fs/cgroup/a/b/memory.max": "max\n",
            },
            15_000,
        ),
        (
            {
                "proc/self/cgroup": "9:cpu:/x\n4:memory:/docker/c\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{30_000 << 10}\n",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{29_000 << 10}\n",
                "sys/fs/cgroup/memory/memory.stat": f"total_active_file {100 << 10}\n",
            },
            1_100,
        ),
    ],
    ids=["machine", "group without limit", "version 2", "version 1, in a container"],
)
def test_memory_is_that_of_the_machine_and_its_groups(tmp_path, files, kib):
    root = system(tmp_path, {"proc/meminfo": MEMINFO, **files})
    assert limits.available_bytes(root) == kib << 10


def test_a_system_that_tells_nothing_limits_nothing(tmp_path, monkeypatch):
    assert limits.available_bytes(tmp_path) is None
    monkeypatch.setattr(limits, "available_bytes", lambda: None)
    limits.require_memory(1 << 60, "it")
    monkeypatch.setattr(limits, "available_bytes", lambda: 1)
    monkeypatch.setenv("DYNUNET_MAX_IMAGE_GIB", "2")
    limits.require_memory(1 << 60, "it")
