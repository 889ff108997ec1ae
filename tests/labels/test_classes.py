"""Values of files become class numbers and come back."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from dynunet_bundle.labels.classes import ClassesToValuesd, ValuesToClassesd
from dynunet_bundle.labels.scheme import IGNORE_CLASS, LabelScheme
from dynunet_bundle.preprocessing.recipe import recipe_of

GAPS = [0, 128, 255]
LARGE = [0, 3, 300, 70_000]
META = {"filename_or_obj": "labels/case_7.png"}


def scheme(values: list[int], ignored: int | None = None) -> LabelScheme:
    return LabelScheme([f"class {value}" for value in values], values, ignored)


def classes_of(label: torch.Tensor, values: list[int], ignored: int | None = None) -> torch.Tensor:
    return ValuesToClassesd("label", scheme(values, ignored))({"label": label})["label"]


def values_of(mask: torch.Tensor, values: list[int]) -> torch.Tensor:
    return ClassesToValuesd("pred", scheme(values))({"pred": mask})["pred"]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.float32])
def test_gaps_between_values_are_closed(dtype: torch.dtype):
    label = torch.tensor([[[0, 128], [255, 0]]], dtype=dtype)
    found = classes_of(label, GAPS)
    assert found.dtype == torch.uint8
    assert found.tolist() == [[[0, 1], [2, 0]]]


def test_large_values():
    label = torch.tensor(LARGE[::-1], dtype=torch.int32)
    assert classes_of(label, LARGE).tolist() == [3, 2, 1, 0]


def test_a_float_label_is_rounded():
    assert classes_of(torch.tensor([0.0, 127.9996, 255.0003]), GAPS).tolist() == [0, 1, 2]
    # 1 and 2 in a scaled NIfTI
    assert classes_of(torch.tensor([0.0, 0.9999999, 2.0001]), [0, 1, 2]).tolist() == [0, 1, 2]


@pytest.mark.parametrize("values", [GAPS, LARGE, [0, 1, 2], [0, 2]])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32])
def test_classes_become_values_again(values: list[int], dtype: torch.dtype):
    label = torch.tensor(np.random.default_rng(0).choice(values, (1, 6, 5, 4)), dtype=torch.int32)
    mask = classes_of(label, values).to(dtype)
    assert mask.max() == len(values) - 1
    assert torch.equal(values_of(mask, values).to(torch.int32), label)


def test_the_type_holds_the_values():
    small = torch.tensor([0, 1, 2], dtype=torch.uint8)
    assert values_of(small, [0, 3, 300]).dtype == torch.int32
    assert values_of(small.float(), GAPS).dtype == torch.float32
    assert values_of(small, [0, 1, 2]).dtype == torch.uint8


def test_a_table_without_gaps_changes_nothing():
    label = torch.tensor([0.0, 2.0, 1.0])
    assert classes_of(label, [0, 1, 2]).tolist() == [0, 2, 1]
    assert classes_of(label, [0, 1, 2]).dtype == torch.uint8
    mask = torch.tensor([2, 0, 1])
    assert values_of(mask, [0, 1, 2]) is mask


@pytest.mark.parametrize("values", [GAPS, [0, 1, 2]])
def test_tensors_keep_their_file_and_affine(values: list[int]):
    affine = torch.diag(torch.tensor([1.0, 2.0, 3.0, 1.0]))
    label = MetaTensor(torch.tensor([[[[values[2]]]]]), affine=affine, meta=dict(META))
    mapped = classes_of(label, values)
    for tensor in (mapped, values_of(mapped, values)):
        assert isinstance(tensor, MetaTensor)
        assert torch.equal(tensor.affine, affine)
        assert tensor.meta["filename_or_obj"] == META["filename_or_obj"]
    assert int(mapped) == 2


def test_the_input_stays_as_it_is():
    label, mask = torch.tensor([0, 128, 255]), torch.tensor([0, 1, 2])
    classes_of(label, GAPS)
    values_of(mask, GAPS)
    assert label.tolist() == GAPS
    assert mask.tolist() == [0, 1, 2]


def test_missing_keys():
    for transform in (ValuesToClassesd, ClassesToValuesd):
        assert transform("label", scheme(GAPS), allow_missing_keys=True)({"image": 1}) == {
            "image": 1
        }
        with pytest.raises(KeyError, match="label"):
            transform("label", scheme(GAPS))({"image": 1})


def test_the_largest_table_leaves_the_ignored_class_free():
    values = list(range(0, 510, 2))
    label = torch.tensor([*values, 509], dtype=torch.int32)
    assert classes_of(label, values, 509).tolist() == [*range(255), IGNORE_CLASS]


# --- unlabelled voxels


@pytest.mark.parametrize(
    ("values", "ignored"), [([0, 1, 2], 3), ([0, 1, 2], 255), ([0, 1, 3], 2), (LARGE, 80_000)]
)
@pytest.mark.parametrize("dtype", [torch.int32, torch.float32])
def test_the_ignored_value_becomes_the_ignored_class(
    values: list[int], ignored: int, dtype: torch.dtype
):
    label = torch.tensor([values[1], ignored, values[-1], ignored, 0], dtype=dtype)
    found = classes_of(label, values, ignored)
    assert found.dtype == torch.uint8
    assert found.tolist() == [1, 255, len(values) - 1, 255, 0]
    assert label.tolist() == [values[1], ignored, values[-1], ignored, 0]


def test_a_label_with_ignored_voxels_keeps_its_file_and_affine():
    affine = torch.diag(torch.tensor([1.0, 2.0, 3.0, 1.0]))
    label = MetaTensor(torch.tensor([[[[1.0, 4.0]]]]), affine=affine, meta=dict(META))
    mapped = classes_of(label, [0, 1], 4)
    assert isinstance(mapped, MetaTensor)
    assert torch.equal(mapped.affine, affine)
    assert mapped.meta["filename_or_obj"] == META["filename_or_obj"]
    assert mapped.flatten().tolist() == [1, 255]


def test_the_key_of_a_store_changes_only_with_an_ignore_value():
    """Stores of versions without ignore values stay valid."""
    plain = recipe_of(ValuesToClassesd("label", scheme([0, 1])))
    (settings,) = plain.values()
    assert "ignore_value" not in settings
    assert recipe_of(ValuesToClassesd("label", scheme([0, 1], 2))) != plain
