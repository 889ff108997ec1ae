"""Damaged files are refused; a format with a checksum never gives wrong voxels without an error."""

import gzip
import io
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from monai.transforms import Compose, LoadImaged
from PIL import Image

from dynunet_bundle.dataset.case_errors import apply_to_case
from dynunet_bundle.errors import CaseError
from dynunet_bundle.images.read import read_volume
from dynunet_bundle.preprocessing.reader import ImageFileReader

SHAPE = (23, 19, 11)
WITH_CHECKSUM = ("nii.gz", "mha", "nrrd", "nhdr", "tiff", "png")
WITHOUT = ("nii", "raw.mha", "raw.nrrd", "bmp")
STRIP_OFFSETS, STRIP_SIZES = 273, 279
FORMATS = (*WITH_CHECKSUM, *WITHOUT)


def voxels(dtype: str = "int16") -> np.ndarray:
    rng = np.random.default_rng(0)
    smooth = rng.normal(0, 30, SHAPE).cumsum(0).cumsum(1)
    return (smooth - smooth.min()).astype(dtype)


def make(folder: Path, kind: str) -> tuple[Path, Path]:
    """An intact file: the header file, which is opened, and the file with the voxels."""
    path = folder / f"case.{kind.removeprefix('raw.')}"
    if kind.startswith("nii"):
        nib.save(nib.Nifti1Image(voxels(), np.diag([1.0, 2, 3, 1])), path)
    elif kind in ("tiff", "png", "bmp"):
        flat = voxels("float32")[:, :, 0]
        picture = Image.fromarray((255 * flat / flat.max()).astype(np.uint8))
        picture.save(path, **({"compression": "tiff_adobe_deflate"} if kind == "tiff" else {}))
    else:
        image = sitk.GetImageFromArray(voxels().transpose(2, 1, 0))
        image.SetSpacing([1.0, 2.0, 3.0])
        sitk.WriteImage(image, str(path), useCompression=not kind.startswith("raw"))
        if kind == "nhdr":
            return path, path.with_name("case.raw.gz")
    return path, path


def place_of_voxels(kind: str, content: bytes) -> tuple[int, int]:
    """First and last byte after the header, which is not damaged here."""
    if kind == "tiff":
        with Image.open(io.BytesIO(content)) as picture:
            starts, sizes = picture.tag_v2[STRIP_OFFSETS], picture.tag_v2[STRIP_SIZES]
            return starts[0], starts[-1] + sizes[-1]
    marks = {"mha": b"LOCAL\n", "raw.mha": b"LOCAL\n", "nrrd": b"\n\n", "raw.nrrd": b"\n\n"}
    if kind in marks:
        return content.index(marks[kind]) + len(marks[kind]), len(content)
    header = {"nii": 352, "bmp": 54, "png": 33, "nii.gz": 10, "nhdr": 10}[kind]
    return header, len(content)


def outcome(path: Path, sound: np.ndarray) -> str:
    try:
        found = read_volume(path).array
    except Exception as error:
        return f"refused: {error}"
    same = found.shape == sound.shape and found.dtype == sound.dtype
    return "equal" if same and np.array_equal(found, sound) else "other voxels"


def flips(folder: Path, kind: str, count: int) -> list[str]:
    path, stored = make(folder, kind)
    sound, content = read_volume(path).array.copy(), stored.read_bytes()
    start, end = place_of_voxels(kind, content)
    rng = np.random.default_rng(len(kind))
    found = []
    for place in rng.integers(8 * start, 8 * end, count):
        spoiled = bytearray(content)
        spoiled[place // 8] ^= 1 << int(place % 8)
        stored.write_bytes(spoiled)
        found.append(outcome(path, sound))
    return found


@pytest.mark.parametrize("kind", WITH_CHECKSUM)
def test_a_flipped_bit_never_gives_other_voxels(tmp_path: Path, kind: str) -> None:
    assert "other voxels" not in flips(tmp_path, kind, 25)


@pytest.mark.slow
@pytest.mark.parametrize("kind", WITH_CHECKSUM)
def test_many_flipped_bits_never_give_other_voxels(tmp_path: Path, kind: str) -> None:
    assert "other voxels" not in flips(tmp_path, kind, 200)


@pytest.mark.parametrize("kind", WITHOUT)
def test_formats_without_a_checksum_do_not_detect_damage(tmp_path: Path, kind: str) -> None:
    # SECURITY.md lists these formats and must be updated if this changes
    assert "other voxels" in flips(tmp_path, kind, 25)


@pytest.mark.parametrize("kind", FORMATS)
def test_truncated_files_are_refused(tmp_path: Path, kind: str) -> None:
    path, stored = make(tmp_path, kind)
    sound, content = read_volume(path).array.copy(), stored.read_bytes()
    start, _ = place_of_voxels(kind, content)
    lengths = [0, start, *np.linspace(start + 1, len(content) - 1, 8).astype(int)]
    for length in lengths:
        stored.write_bytes(content[:length])
        # the last byte of a row of 23 pixels is padding
        whole = kind == "bmp" and length == len(content) - 1
        assert outcome(path, sound).startswith("equal" if whole else "refused"), length


@pytest.mark.parametrize("kind", ["nii.gz", "nii", "mha", "raw.mha", "nrrd", "raw.nrrd", "png"])
@pytest.mark.parametrize(
    "junk", [b"junk", b"\0" * 700 + b"x", bytes(512), gzip.compress(b"more", mtime=0)]
)
def test_data_after_the_voxels_is_refused_and_padding_is_not(
    tmp_path: Path, kind: str, junk: bytes
) -> None:
    path, stored = make(tmp_path, kind)
    sound = read_volume(path).array.copy()
    stored.write_bytes(stored.read_bytes() + junk)
    expected = "refused" if junk.strip(b"\0") else "equal"
    assert outcome(path, sound).startswith(expected)


@pytest.mark.parametrize("kind", ["mha", "nrrd", "nhdr"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32", "float64", "int32"])
@pytest.mark.parametrize("components", [1, 3])
def test_what_is_decompressed_here_is_what_simpleitk_reads(
    tmp_path: Path, kind: str, dtype: str, components: int
) -> None:
    rng = np.random.default_rng(1)
    shape = (*SHAPE[::-1], components) if components > 1 else SHAPE[::-1]
    image = sitk.GetImageFromArray((rng.random(shape) * 200).astype(dtype), isVector=components > 1)
    image.SetSpacing([1.5, 2.0, 3.0])
    image.SetOrigin([4.0, -5.0, 6.0])
    image.SetDirection([0, 1, 0, 1, 0, 0, 0, 0, -1])
    packed, plain = tmp_path / f"packed.{kind}", tmp_path / "plain.mha"
    sitk.WriteImage(image, str(packed), useCompression=True)
    sitk.WriteImage(image, str(plain), useCompression=False)
    ours, theirs = read_volume(packed), read_volume(plain)
    assert ours.array.dtype == theirs.array.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(ours.array, theirs.array)
    np.testing.assert_allclose(ours.affine, theirs.affine)


def test_a_big_endian_nrrd_of_bzip2(tmp_path: Path) -> None:
    import bz2

    array = voxels()
    head = (
        "NRRD0004\ntype: int16\ndimension: 3\nsizes: 23 19 11\nencoding: bzip2\nendian: big\n"
        "space: left-posterior-superior\nspace directions: (1,0,0) (0,1,0) (0,0,1)\n"
        "space origin: (0,0,0)\n\n"
    )
    content = bz2.compress(array.astype(">i2").tobytes("F"))
    (tmp_path / "case.nrrd").write_bytes(head.encode() + content)
    np.testing.assert_array_equal(read_volume(tmp_path / "case.nrrd").array[0], array)
    (tmp_path / "case.nrrd").write_bytes(head.encode() + content[:-4] + b"abcd")
    with pytest.raises(OSError, match="Invalid data stream"):
        read_volume(tmp_path / "case.nrrd")


def test_a_damaged_file_names_the_case_and_what_to_do(tmp_path: Path) -> None:
    path, stored = make(tmp_path, "mha")
    content = bytearray(stored.read_bytes())
    content[-1] ^= 1
    stored.write_bytes(content)
    load = Compose([LoadImaged("image", reader=ImageFileReader())])
    with pytest.raises(CaseError, match=r"case case: .*damaged.*Replace the damaged file"):
        apply_to_case({"image": str(path)}, load)
