"""A file that is read leads to no other one, and is nothing else than its name says."""

import os

import numpy as np
import pytest
import SimpleITK as sitk
from spoiled_files import meta, nrrd

from dynunet_bundle.errors import CaseError
from dynunet_bundle.images.read import read_volume

# --- files that lead to others


@pytest.mark.parametrize(
    "name", ["/etc/hostname", "../secret.raw", "sub/../../secret.raw", "C:\\secret.raw", "\\x.raw"]
)
def test_a_header_leads_to_no_file_outside_its_folder(tmp_path, name):
    (tmp_path / "secret.raw").write_bytes(bytes(range(64)))
    folder = tmp_path / "in" / "sub"
    folder.mkdir(parents=True)
    for path in (
        nrrd(folder.parent / "a.nhdr", data_file=name),
        nrrd(folder.parent / "b.nrrd", DataFile=name),
        nrrd(folder.parent / "c.nhdr", data_file=f"LIST\n{name}"),
        meta(folder.parent / "d.mhd", ElementDataFile=name),
        meta(folder.parent / "e.mha", ElementDataFile=name),
        meta(folder.parent / "f.mhd", ElementDataFile=f"LIST\n{name}"),
        meta(folder.parent / "g.mhd", ElementDataFile=f"{name} 1 4 1"),
    ):
        with pytest.raises(OSError, match="not in its folder"):
            read_volume(path)


# each of these ended the process, or never ended, in SimpleITK 2.5.7
UNSOUND = {
    "format.mha": {"ElementDataFile": "%s%s%s%s.raw 1 5 1"},
    "writes.mha": {"ElementDataFile": "%n%n%n%n.raw 1 5 1"},
    "dimensions.mha": {"NDims": "65535"},
    "lines.mha": {"NDims": "\n65535"},
    "turning.mha": {"TransformMatrix": "1 0 0 0 1 0 1e308 0 1"},
    "next_line.mha": {"TransformMatrix": "\n1 0 0 0 1\n0 1e308 0 1"},
    "packed.mha": {"CompressedData": "True", "CompressedDataSize": "99999999999999"},
    "twice.mha": {"NDims": "3\nNDims = 9"},
    "dimensions.nrrd": {"dimension": "16", "sizes": " ".join("1" * 16)},
    "units.nrrd": {"units": '"mm" ' * 3000},
    "width.nrrd": {"data_file": "x%0999999999d.raw 1 4 1 2"},
    "vector.nrrd": {
        "dimension": "4",
        "sizes": "100000000000 1 1 1",
        "kinds": "vector domain domain domain",
    },
}


@pytest.mark.parametrize("name", UNSOUND)
def test_headers_that_simpleitk_believes_do_not_reach_it(tmp_path, monkeypatch, name):
    monkeypatch.setattr(sitk, "ImageFileReader", lambda: pytest.fail("SimpleITK got it"))
    make = meta if name.endswith("mha") else nrrd
    fields = dict(UNSOUND[name])
    path = make(
        tmp_path / name, **({"sizes": fields.pop("sizes")} if "sizes" in fields else {}), **fields
    )
    with pytest.raises(
        (OSError, CaseError), match="its header|GiB are allowed|named in its header"
    ):
        read_volume(path)


def test_fields_that_are_no_geometry_may_hold_anything(tmp_path):
    fields = {"ElementMax": "1e38", "AcquisitionDate": "20200101123000.00", "Comment": "1e308 inf"}
    assert read_volume(meta(tmp_path / "a.mha", **fields)).array.shape == (1, 4, 4, 4)
    path = nrrd(tmp_path / "a.nrrd", content="1e308", max="3e38", units='"mm" "mm" "mm"')
    assert read_volume(path).array.shape == (1, 4, 4, 4)


def test_a_header_beside_its_voxels_is_read(tmp_path):
    array = np.arange(60, dtype=np.uint8).reshape(5, 4, 3)
    for suffix in ("nhdr", "mhd"):
        path = tmp_path / f"a.{suffix}"
        sitk.WriteImage(sitk.GetImageFromArray(array), str(path))
        np.testing.assert_array_equal(read_volume(path).array[0], array.T)


@pytest.mark.parametrize("suffix", ["nhdr", "mhd"])
def test_voxels_in_a_pipe_are_not_waited_for(tmp_path, suffix):
    os.mkfifo(tmp_path / "a.raw")
    make = {
        "nhdr": lambda path: nrrd(path, data_file="a.raw"),
        "mhd": lambda path: meta(path, ElementDataFile="a.raw"),
    }
    with pytest.raises(OSError, match="is not a file"):
        read_volume(make[suffix](tmp_path / f"a.{suffix}"))


# --- files that are something else than their names say


def test_a_bitmap_is_no_program_for_ghostscript(tmp_path):
    marker = tmp_path / "marker"
    path = tmp_path / "a.bmp"
    path.write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n"
        + f"({marker}) (w) file closefile\n".encode()
        + b"showpage\n"
    )
    with pytest.raises(OSError, match="cannot identify"):
        read_volume(path)
    assert not marker.exists()


@pytest.mark.parametrize("suffix", ["png", "tif", "nrrd", "mha"])
def test_a_file_is_only_what_its_name_says(tmp_path, suffix):
    real = tmp_path / "real.vtk"
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 4, 4), np.uint8)), str(real))
    path = real.rename(tmp_path / f"a.{suffix}")
    with pytest.raises(OSError):
        read_volume(path)


@pytest.mark.parametrize("suffix", ["nii.gz", "nrrd", "mha", "png", "bmp"])
def test_a_name_that_is_not_utf_8_ends_no_process(tmp_path, suffix):
    path = tmp_path / os.fsdecode(b"caf\xe9.") / os.fsdecode(f"\xfc.{suffix}".encode("latin-1"))
    path.parent.mkdir()
    array = np.arange(64, dtype=np.uint8).reshape(4, 4, 4)[:, :, : 1 if suffix in "png bmp" else 4]
    plain = tmp_path / f"a.{suffix}"
    image = sitk.GetImageFromArray(array.T.squeeze() if array.shape[2] == 1 else array.T)
    sitk.WriteImage(image, str(plain))
    plain.rename(path)
    try:
        found = read_volume(path)
    except OSError as error:
        assert str(error) == "its path is not valid UTF-8" and suffix in ("nrrd", "mha", "png")
    else:
        np.testing.assert_array_equal(found.array[0], array)
