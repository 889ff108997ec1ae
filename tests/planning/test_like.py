"""A new data set takes the plan of a trained model; its channels and labels are its own."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.saved_models import CT, PLAN, REGIONS, save_model

from dynunet_bundle.dataset.layouts import DatasetDescription
from dynunet_bundle.errors import ConfigError, PlanError, WeightsError
from dynunet_bundle.labels.scheme import LabelScheme
from dynunet_bundle.networks.starting_model import source_model
from dynunet_bundle.planning.command import PlanRequest, plan_dataset
from dynunet_bundle.planning.like import SourceModel, plan_like
from dynunet_bundle.planning.plan import plan_from
from dynunet_bundle.planning.summary import format_rows, like_rows

DATA = DatasetDescription("Task77_New", ("PET",), LabelScheme(("background", "lesion")), (), ())


def source_of(mirror_axes: list[int] | None = None, **changes: Any) -> SourceModel:
    return SourceModel("PACKAGE", PLAN | changes, mirror_axes)


def test_everything_but_names_and_labels_is_the_models() -> None:
    source = source_of(axcodes="zyx", ignore_value=3, normalization=["rescale_to_0_1"])
    plan = plan_like(DATA, source)
    expected = replace(
        plan_from(source.plan),
        task_name="Task77_New",
        channel_names=["PET"],
        label_names=["background", "lesion"],
        label_values=[0, 1],
        ignore_value=None,
    )
    assert plan == expected
    labels = LabelScheme(
        REGIONS["label_names"],
        REGIONS["label_values"],
        regions=REGIONS["regions"],
        regions_class_order=REGIONS["regions_class_order"],
    )
    plan = plan_like(replace(DATA, labels=labels), source)
    assert (plan.regions, plan.label_values) == (REGIONS["regions"], [0, 1, 2, 4])


def test_channels_in_another_order_keep_their_normalization() -> None:
    two = {
        "channel_names": ["CT", "PET"],
        "normalization": ["ct", "zscore"],
        "intensity_statistics": [CT, None],
    }
    plan = plan_like(replace(DATA, channel_names=("PET", "CT")), source_of(**two))
    assert plan.normalization == ["zscore", "ct"]
    assert plan.intensity_statistics == [None, CT]
    plan = plan_like(replace(DATA, channel_names=("PET", "MR")), source_of(**two))
    assert (plan.channel_names, plan.normalization) == (["PET", "MR"], ["ct", "zscore"])


def test_another_number_of_channels_is_refused() -> None:
    with pytest.raises(PlanError, match=r"2 channels \(T1, T2\), PACKAGE has 1 \(MRI\)"):
        plan_like(replace(DATA, channel_names=("T1", "T2")), source_of())


def test_the_summary_says_how_to_go_on() -> None:
    source = source_of([0, 1], axcodes="yxz")
    text = format_rows("decided", like_rows(plan_like(DATA, source), source))
    assert "--pretrained PACKAGE" in text
    assert '--augmentation#mirror#axes "[0, 1]"' in text
    assert "store all images as those of the model" in text
    for known in (None, [0, 1, 2]):
        source = source_of(known)
        assert "mirror" not in format_rows("", like_rows(plan_like(DATA, source), source))


def test_what_is_not_a_model_with_a_plan(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="is missing"):
        source_model(tmp_path / "model.pt")
    with pytest.raises(WeightsError, match="neither models/model.pt nor model.pt"):
        source_model(tmp_path)
    save_model(tmp_path / "model.pt").with_suffix(".json").unlink()
    with pytest.raises(PlanError, match=r"does not say its plan.*without --like"):
        plan_like(DATA, source_model(tmp_path))


@pytest.mark.parametrize(
    "other", [{"configuration": "2d"}, {"planner": "resenc_m"}, {"gpu_memory_gb": 8.0}]
)
def test_rules_of_a_planner_contradict_it(other: dict[str, Any], tmp_path: Path) -> None:
    request = PlanRequest(tasks_dir=tmp_path, dataset_dir="x", like=source_of(), **other)
    with pytest.raises(ConfigError, match="--like takes the whole plan"):
        plan_dataset(request)
