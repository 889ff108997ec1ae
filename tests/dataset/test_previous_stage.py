"""Masks of the previous stage are matched to cases, and bad input is refused before anything runs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import touch

from dynunet_bundle.dataset.cases import Case, all_files, file_identity, name_of
from dynunet_bundle.dataset.previous_stage import with_previous
from dynunet_bundle.dataset.select import FoldCases
from dynunet_bundle.errors import CaseError, ConfigError, DatasetError
from dynunet_bundle.labels.scheme import LabelScheme

CASES: list[dict[str, Any]] = [
    {"image": "/data/a.nii.gz", "label": "/data/labels/a.nii.gz"},
    {"image": "/data/b.b.nrrd"},
    {"image": ["/data/c_0000.mha", "/data/c_0001.mha"], "name": "c"},
]


def test_masks_belong_to_cases_by_name(tmp_path: Path) -> None:
    touch(tmp_path, "c.mha", "a.nii.gz", "b.b.nii", "other.nii.gz", "run.json", ".a.nii.gz.x.tmp")
    found = with_previous(CASES, str(tmp_path), True)
    files = [Path(case["previous"]) for case in found]
    assert [path.name for path in files] == ["a.nii.gz", "b.b.nii", "c.mha"]
    assert all(path.is_absolute() and path.parent == tmp_path for path in files)
    for case, given in zip(found, CASES, strict=True):
        assert {key: value for key, value in case.items() if key != "previous"} == given
    assert all("previous" not in case for case in CASES)
    assert all_files(found[2])["previous"] == str(files[2])


def test_other_plans_get_no_masks() -> None:
    assert with_previous(CASES) == CASES
    assert with_previous(CASES)[0] is CASES[0]


def test_a_folder_of_masks_for_a_plan_that_is_not_a_cascade(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"previous_dir is .* not a cascade.*3d_cascade_fullres"):
        with_previous(CASES, str(tmp_path))


def test_a_cascade_without_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"Pass their folder as --previous_dir.*cross_validation"):
        with_previous(CASES, None, True)
    with pytest.raises(ConfigError, match=r"nowhere, which is not a folder"):
        with_previous(CASES, str(tmp_path / "nowhere"), True)


def test_cases_without_a_mask_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii.gz")
    with pytest.raises(CaseError, match=r"case b\.b: it has no mask .*, nor have c\. For train"):
        with_previous(CASES, str(tmp_path), True)
    many = [{"image": f"/data/x{index}.nii"} for index in range(9)]
    with pytest.raises(CaseError, match=r"case x0: .*, nor have x1, x2, x3, x4, x5 and 3 more"):
        with_previous(many, str(tmp_path), True)


def test_a_prediction_goes_on_without_some_masks(tmp_path: Path) -> None:
    """``CheckCased`` refuses the cases without one; a folder without any is a mistake."""
    names = [name_of(case) for case in CASES]
    touch(tmp_path, f"{names[0]}.nii.gz")
    found = with_previous(CASES, str(tmp_path), True, tolerant=True)
    assert ["previous" in case for case in found] == [name == names[0] for name in names]
    (tmp_path / "empty").mkdir()
    with pytest.raises(CaseError, match="it has no mask of the previous stage"):
        with_previous(CASES, str(tmp_path / "empty"), True, tolerant=True)


def test_two_masks_of_one_name(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii.gz", "a.nii", "b.b.nii", "c.mha")
    with pytest.raises(DatasetError, match="has duplicate case names: a"):
        with_previous(CASES, str(tmp_path), True)


def test_cases_of_a_data_set(make_dataset: Callable[..., Path], tmp_path: Path) -> None:
    root = str(make_dataset(num_cases=5))
    labels = LabelScheme(["background", "edema", "tumour"])
    plan = {"cascade": True, "previous_dir": str(tmp_path / "masks")}

    def cases_of(part: str, **settings: Any) -> list[Case]:
        return getattr(FoldCases(root, ["FLAIR", "T1w"], labels, **settings), part)

    touch(tmp_path / "masks", *(f"t_{index:02d}.nii.gz" for index in range(4)))
    held_out: set[str] = set()
    for fold in range(5):
        names = [Path(case["label"]).name for case in cases_of("validation", fold=fold)]
        if names == ["t_04.nii.gz"]:
            with pytest.raises(CaseError, match="case t_04: it has no mask"):
                cases_of("validation", fold=fold, **plan)
            continue
        cases = cases_of("validation", fold=fold, **plan)
        assert [Path(case["previous"]).name for case in cases] == names
        held_out.update(names)
        with pytest.raises(CaseError, match="case t_04: it has no mask"):
            cases_of("training", fold=fold, **plan)
    assert len(held_out) == 4
    with pytest.raises(CaseError, match="case t_04: it has no mask"):
        cases_of("training", fold="all", **plan)


def test_cached_results_of_a_case_depend_on_its_mask(tmp_path: Path) -> None:
    case = {key: str(touch(tmp_path, f"{key}.nii")) for key in ("image", "previous")}
    before = file_identity(case)
    Path(case["previous"]).write_bytes(b"another")
    assert before != file_identity(case)
