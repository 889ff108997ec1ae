"""The benchmark of DICOM objects writes objects of its mask, and measures each size and number of labels."""

from pathlib import Path

import numpy as np
import pytest
from helpers.dicom_readers import read_rtstruct, read_seg

from benchmarks import objects
from benchmarks.measure import choose_core
from dynunet_bundle.dicom_input.series import load_series
from dynunet_bundle.errors import ConfigError


def test_each_point_is_measured(tmp_path: Path) -> None:
    sections = objects.run([(16, 16, 6), (16, 16, 12)], [2, 5], tmp_path, choose_core(None))

    assert list(sections) == ["seg", "rtstruct", "report"]
    for rows in sections.values():
        titles = ["16x16x6, 5 labels", "16x16x12, 5 labels", "16x16x12, 2 labels"]
        assert [row.contender for row in rows] == titles
        assert all(row.cpu_s and not row.remark for row in rows)


def test_objects_of_many_labels_hold_the_mask(tmp_path: Path) -> None:
    shape = (48, 40, 36)
    objects.write_series(tmp_path / "series", shape)
    mask = objects.make_mask(shape, 104)
    np.save(tmp_path / "mask.npy", mask)

    objects.write_object("seg", tmp_path)
    objects.write_object("rtstruct", tmp_path)

    series = load_series(str(tmp_path / "series"))
    assert len(np.unique(mask)) > 60
    assert np.array_equal(read_seg(tmp_path / "seg.dcm", series), mask)
    assert np.array_equal(read_rtstruct(tmp_path / "rtstruct.dcm", series), mask)


def test_too_many_labels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at most 255"):
        objects.run([(4, 4, 4)], [300], tmp_path, 0)
