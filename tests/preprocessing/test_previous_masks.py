"""The mask of a previous stage in the store and the network: same grid, same classes, errors name the case."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import save_nifti
from monai.data import MetaTensor
from monai.transforms import Compose

from dynunet_bundle.dataset.case_errors import apply_to_case
from dynunet_bundle.dataset.cases import Case, name_of
from dynunet_bundle.errors import CaseError
from dynunet_bundle.preprocessing.append_previous import AppendPreviousd
from dynunet_bundle.preprocessing.recipe import recipe_of
from dynunet_bundle.preprocessing.store import PreparedDataset

SHAPE = (14, 16, 12)
VALUES = [0, 3, 8]
# oblique, flipped and anisotropic
AFFINE = np.array(
    [[0.0, -1.4, 0.3, 20.0], [1.1, 0.0, 0.1, -7.0], [0.1, 0.2, -2.9, 4.0], [0.0, 0.0, 0.0, 1.0]]
)

Pipeline = Callable[..., Compose]


@pytest.fixture
def pipeline(train_workflow: Callable[..., Any]) -> Pipeline:
    """The real preprocessing of the tiny plan as a cascade."""

    def load(**overrides: Any) -> Compose:
        given = {"cascade": True, "label_values": VALUES, **overrides}
        return train_workflow(**given).parser.get_parsed_content("preprocessing")

    return load


@pytest.fixture
def cases(tmp_path: Path) -> list[Case]:
    """Two cases with an empty border around the image, whose previous mask is their label, as floats."""
    made = []
    for index in range(2):
        rng = np.random.default_rng(index)
        image = np.zeros(SHAPE, np.float32)
        image[2:, 1:-3, 2:] = rng.normal(100, 20, (12, 12, 10))
        label = np.zeros(SHAPE, np.uint8)
        label[3:9, 4:10, 3:8] = 3
        label[6:12, 4:10, 3:8] = 8
        files = {"image": image, "label": label, "previous": label.astype(np.float32)}
        folder = tmp_path / "raw"
        made.append(
            {
                key: str(save_nifti(folder / key / f"c{index}.nii.gz", array, AFFINE))
                for key, array in files.items()
            }
        )
    return made


def store_of(cases: list[Case], transform: Compose, folder: Path) -> PreparedDataset:
    return PreparedDataset(cases, transform, str(folder), num_classes=3, cascade=True)


def test_a_mask_goes_the_way_of_the_label(
    cases: list[Case], pipeline: Pipeline, tmp_path: Path
) -> None:
    dataset = store_of(cases, pipeline(), tmp_path / "store")
    for index, prepared in enumerate(dataset.cases()):
        label, previous = np.load(prepared.label), np.load(prepared.previous)
        assert label.shape[1:] == prepared.shape != SHAPE
        np.testing.assert_array_equal(previous, label)
        assert previous.dtype == np.uint8 and set(np.unique(previous)) == {0, 1, 2}
        item = dataset[index]
        assert item["image"].shape == (3, *prepared.shape)
        assert item["image"].dtype == torch.float32
        np.testing.assert_array_equal(item["image"][0], np.load(prepared.image)[0])
        for value in (1, 2):
            np.testing.assert_array_equal(item["image"][value], previous[0] == value)


def test_the_joined_image_is_that_of_the_store_and_knows_its_way_back(
    cases: list[Case], pipeline: Pipeline, tmp_path: Path
) -> None:
    transform = pipeline()
    prepared = transform(cases[0])
    joined = AppendPreviousd("image", 3)(prepared)
    assert joined.keys() == prepared.keys() - {"previous"}
    expected = store_of(cases, transform, tmp_path / "store")[0]
    assert torch.equal(joined["image"].as_tensor(), expected["image"])
    before, after = prepared["image"], joined["image"]
    assert isinstance(after, MetaTensor)
    assert torch.equal(before.affine, after.affine)
    assert [step["class"] for step in before.applied_operations] == [
        step["class"] for step in after.applied_operations
    ]
    assert name_of(joined) == "c0"


def test_another_mask_prepares_its_case_again(
    cases: list[Case], pipeline: Pipeline, tmp_path: Path
) -> None:
    transform = pipeline()
    before = store_of(cases, transform, tmp_path / "store").cases()
    times = [Path(case.image).stat().st_mtime_ns for case in before]
    save_nifti(Path(cases[1]["previous"]), np.zeros(SHAPE, np.uint8), AFFINE)
    after = store_of(cases, transform, tmp_path / "store").cases()
    assert after[0] == before[0]
    assert Path(after[0].image).stat().st_mtime_ns == times[0]
    assert Path(after[1].image).stat().st_mtime_ns != times[1]
    assert not np.load(after[1].previous).any()
    # centred on the label, which has not changed
    assert after[1].present == (1, 2)


def test_a_damaged_mask_is_prepared_again(
    cases: list[Case], pipeline: Pipeline, tmp_path: Path
) -> None:
    transform = pipeline()
    (first, _) = store_of(cases, transform, tmp_path / "store").cases()
    kept = np.load(first.previous)
    Path(first.previous).write_bytes(b"\0" * Path(first.previous).stat().st_size)
    (again, _) = store_of(cases, transform, tmp_path / "store").cases()
    np.testing.assert_array_equal(np.load(again.previous), kept)


def test_without_a_cascade_the_recipe_is_what_it_was(pipeline: Pipeline) -> None:
    """Stores prepared by a version without cascades are not prepared again."""
    described = json.dumps(recipe_of(pipeline(cascade=False)))
    assert "previous" not in described and "cascade" not in described
    assert json.dumps(["image", "label"]) in described
    assert described != json.dumps(recipe_of(pipeline()))


# --- refused


def refused(case: Case, transform: Compose) -> str:
    with pytest.raises(CaseError) as caught:
        apply_to_case(case, transform)
    message = str(caught.value)
    assert message.startswith("case c0: ") and "dynunet-bundle predict" in message
    return message


def test_a_case_without_a_mask(cases: list[Case], pipeline: Pipeline) -> None:
    del cases[0]["previous"]
    assert "it has no mask of the previous stage" in refused(cases[0], pipeline())


@pytest.mark.parametrize(
    ("shape", "affine", "fill", "message"),
    [
        ((14, 16, 6), AFFINE, 0, "image and mask of the previous stage have different shapes"),
        (SHAPE, np.diag([1.0, 1.0, 1.0, 1.0]), 0, "are at different positions"),
        (SHAPE, AFFINE, 5, "its mask of the previous stage has values that are not listed: 5"),
        (SHAPE, AFFINE, 9, "its mask of the previous stage has values that are not listed: 9"),
        ((*SHAPE, 2), AFFINE, 0, "its mask of the previous stage has 2 channels"),
    ],
)
def test_a_mask_of_another_grid_or_data_set(
    cases: list[Case],
    pipeline: Pipeline,
    shape: tuple[int, ...],
    affine: np.ndarray,
    fill: int,
    message: str,
) -> None:
    save_nifti(Path(cases[0]["previous"]), np.full(shape, fill, np.uint8), affine)
    # 9 is ignored in labels, but a network does not ignore
    assert message in refused(cases[0], pipeline(ignore_value=9))


def test_a_mask_that_cannot_be_read(cases: list[Case], pipeline: Pipeline) -> None:
    Path(cases[0]["previous"]).write_bytes(b"no mask")
    with pytest.raises(CaseError, match=r"case c0: cannot read .*c0\.nii\.gz"):
        apply_to_case(cases[0], pipeline())


def test_the_mask_of_a_case_is_one_of_its_files(cases: list[Case], pipeline: Pipeline) -> None:
    """The message names the path of the missing file."""
    Path(cases[0]["previous"]).unlink()
    with pytest.raises(CaseError, match=r"previous/c0\.nii\.gz is missing"):
        store_of(cases, pipeline(), Path(cases[0]["image"]).parent / "store").cases()


def test_an_image_is_not_changed_by_its_mask(cases: list[Case], pipeline: Pipeline) -> None:
    with_mask, without = pipeline()(cases[0]), pipeline(cascade=False)(cases[0])
    assert torch.equal(with_mask["image"].as_tensor(), without["image"].as_tensor())
    assert torch.equal(with_mask["label"].as_tensor(), without["label"].as_tensor())
    # a plan without a cascade ignores it, wherever it comes from
    assert without["previous"] == cases[0]["previous"]
    assert nib.load(without["previous"]).shape == SHAPE
