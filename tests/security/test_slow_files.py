"""Small files that take a reader minutes or all memory are refused, or read, in 2 s and 300 MiB."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image
from slow_files import archive, bmp, header, keys, png, tiff, tiff_strips

from dynunet_bundle.images.picture_checks import MAX_CHUNKS
from dynunet_bundle.images.read import read_volume
from dynunet_bundle.images.tiff_checks import MAX_PAGES

MAX_SECONDS = 2.0
"""Of a processor, so that other work on the machine does not count."""

MAX_KIB = 300 << 10

READ = """
import os, resource, sys
from pathlib import Path
import dynunet_bundle.dicom_input.scan, dynunet_bundle.images.simpleitk, pydicom
from dynunet_bundle.images.read import read_volume
# after exec, ru_maxrss is that of the process that started this one
status = Path("/proc/self/status").read_text()
before = int(status.partition("VmHWM:")[2].split()[0])
for path in map(Path, sys.argv[1:]):
    if not os.fork():
        resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
        try:
            read = dynunet_bundle.dicom_input.scan.scan if path.suffix == ".zip" else read_volume
            read(path)
            print("was read", end="|", flush=True)
        except (OSError, ValueError) as error:
            print(error, end="|", flush=True)
        os._exit(0)
    used = os.wait4(-1, 0)[2]
    print(used.ru_utime + used.ru_stime, used.ru_maxrss - before, path.name, sep="|", flush=True)
"""

FILES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "self.tif": (lambda path: tiff(path, [0]), "form a loop"),
    "loop.tif": (lambda path: tiff(path, [1, 2, 0]), "form a loop"),
    "long_loop.tif": (
        lambda path: tiff(path, [*range(1, 60_000), 0]),
        f"more than {MAX_PAGES} pages",
    ),
    "chain.tif": (lambda path: tiff(path, [*range(1, 60_000), -1]), f"more than {MAX_PAGES} pages"),
    "pages.tif": (lambda path: tiff(path, [*range(1, 1000), -1]), "was read"),
    "lines.tif": (
        lambda path: tiff(path, [-1], WIDTH=1, HEIGHT=2**31, ROWS=1),
        "2147483648 voxels",
    ),
    "strips.tif": (
        lambda path: tiff(path, [-1], STRIP_PLACES=(2**31, 8), STRIP_SIZES=(2**31, 8)),
        "its tags have more than",
    ),
    "tag.tif": (lambda path: tiff(path, [-1], DESCRIPTION=(2**30, 8)), "its tags have more than"),
    "cut.tif": (lambda path: tiff(path, [-1], WIDTH=30_000, HEIGHT=30_000), "it is truncated"),
    "overlap.tif": (lambda path: tiff_strips(path, 30_000), "compressed strips take"),
    "keys.nrrd": (lambda path: keys(path, 60_000, "key%d:=1\n"), "longer than 5000 lines"),
    "keys.mha": (lambda path: keys(path, 60_000, "Key%d = 1\n"), "longer than 5000 lines"),
    "line.nrrd": (lambda path: header(path, b"a:=" + b"b" * (8 << 20)), "longer than 5000 lines"),
    "list.nrrd": (lambda path: header(path, b"kinds: " + b"( " * 250_000 + b"\n"), "characters"),
    "text.png": (lambda path: png(path, b"tEXt", b"a\0" + bytes(100 << 20)), "is too long"),
    "chunks.png": (lambda path: png(path, b"tEXt", b"a\0b", 400_000), f"{MAX_CHUNKS} chunks"),
    "wide.png": (lambda path: png(path, b"tEXt", b"a\0b", side=30_000), "it is truncated"),
    "wide.bmp": (lambda path: bmp(path, 25_000), "it is truncated"),
    "entries.zip": (lambda path: archive(path, 49_000), "contains 49000 files; 20000 are allowed"),
    "many.zip": (lambda path: archive(path, 30_000, 400), "contains more than 20000 files"),
}


def test_slow_files_are_refused_in_2_s_and_300_mib(tmp_path):
    files = [make(tmp_path / name) for name, (make, _) in FILES.items()]
    done = subprocess.run(
        [sys.executable, "-c", READ, *map(str, files)], capture_output=True, text=True, check=False
    )
    lines = done.stdout.splitlines()
    assert len(lines) == len(files), done.stderr[-2000:]
    for file, line in zip(files, lines, strict=True):
        outcome, seconds, kib, name = line.split("|")
        assert name == file.name and FILES[name][1] in outcome, line
        assert float(seconds) < MAX_SECONDS and int(kib) < MAX_KIB, line


@pytest.mark.parametrize("compression", [None, "tiff_adobe_deflate", "tiff_lzw", "packbits"])
@pytest.mark.parametrize("big", [False, True])
def test_many_pages_are_read_as_before(tmp_path, compression, big):
    pages = np.arange(3 * 5 * 7, dtype=np.uint8).reshape(3, 5, 7)
    first, *others = map(Image.fromarray, pages)
    first.save(
        tmp_path / "a.tif", save_all=True, append_images=others, compression=compression,
        big_tiff=big,
    )  # fmt: skip
    found = read_volume(tmp_path / "a.tif").array
    np.testing.assert_array_equal(found[0], pages.T)


@pytest.mark.parametrize("suffix", ["tif", "png", "bmp"])
def test_pictures_that_pillow_takes_for_bombs_are_read(tmp_path, monkeypatch, suffix):
    # as 20000 x 20000 pixels are, which would take seconds here
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    picture = np.arange(40 * 30, dtype=np.uint8).reshape(40, 30)
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(picture).save(path)
    np.testing.assert_array_equal(read_volume(path).array[0, :, :, 0], picture.T)


def test_1000_keys_are_read(tmp_path):
    found = read_volume(keys(tmp_path / "a.nrrd", 1000, "DWMRI_gradient_%04d:=0 0 1\n"))
    assert found.array.shape == (1, 4, 4, 4)
    image = sitk.GetImageFromArray(np.ones((4, 4, 4), np.uint8))
    for index in range(1000):
        image.SetMetaData(f"Segment{index}_Name", "a")
    sitk.WriteImage(image, str(tmp_path / "b.mha"))
    assert read_volume(tmp_path / "b.mha").array.all()
