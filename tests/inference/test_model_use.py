"""A model is scored on cases that it has not seen, and gets images as its training did."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import BUNDLE, TINY
from helpers.training_runs import part
from ignite.engine import Engine
from monai.bundle import ConfigWorkflow
from monai.transforms import Compose, Orientationd, ScaleIntensityd, Spacingd

from dynunet_bundle.configs.workflow import load_workflow
from dynunet_bundle.dataset.case_marks import case_marks, name_mark
from dynunet_bundle.dataset.cases import name_of
from dynunet_bundle.errors import ConfigError, WeightsError, find_user_error
from dynunet_bundle.inference.model_use import ModelUse, preprocessing_difference
from dynunet_bundle.networks.model_json import model_facts
from dynunet_bundle.networks.weights import inference_network
from dynunet_bundle.preprocessing.recipe import image_recipe

STEPS = Compose([Orientationd("image", "SAR"), ScaleIntensityd("image")])


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("cases")
    for index in range(4):
        (folder / f"case_{index}.nii.gz").write_bytes(bytes([index]) * 200_000)
    return [{"image": str(folder / f"case_{index}.nii.gz")} for index in range(4)]


@pytest.fixture
def weights(tmp_path: Path, cases: list[dict[str, Any]]) -> Path:
    """Weights of fold 0, trained on the first two cases."""
    path = tmp_path / "model.pt"
    facts = {
        "fold": 0,
        "trained": case_marks(cases[:2]),
        "held_out": case_marks(cases[2:]),
        "preprocessing": image_recipe(STEPS),
    }
    path.with_suffix(".json").write_text(json.dumps({"sha256": "0" * 64, "learnt_from": facts}))
    return path


def use(weights: Path | list[str], preprocessing: Any = STEPS, **options: Any) -> list[str]:
    """Names of the trained cases that the check finds."""
    engine = Engine(lambda engine, batch: None)
    paths = weights if isinstance(weights, list) else str(weights)
    ModelUse(paths, preprocessing, **options)(engine)
    names: list[str] = engine.state.trained_cases
    return names


def test_a_model_file_says_nothing_about_given_weights(weights: Path, cases: Any) -> None:
    engine = Engine(lambda engine, batch: None)
    engine.network = inference_network(torch.nn.Identity(), "cpu", str(weights))
    engine.network.load_state_dict({})
    ModelUse(str(weights), STEPS, cases=cases)(engine)
    assert engine.state.trained_cases == []


def test_held_out_cases_are_scored_and_trained_ones_are_not(weights: Path, cases: Any) -> None:
    assert use(weights, cases=cases[2:]) == []
    with pytest.raises(ConfigError, match=r"fold 0 .*2 of 3 cases \(case_0, case_1\).*--allow"):
        use(weights, cases=cases[:3])
    assert use(weights, cases=cases[:3], allow_trained_cases=True) == ["case_0", "case_1"]
    assert use([str(weights)] * 2, cases=cases[:1], allow_trained_cases=True) == ["case_0"]


def test_a_renamed_case_is_recognised_and_another_case_of_that_name_is_scored(
    weights: Path, cases: Any, tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    renamed, other = tmp_path / "renamed.nii.gz", tmp_path / "case_1.nii.gz"
    renamed.write_bytes(Path(cases[0]["image"]).read_bytes())
    other.write_bytes(b"of another hospital")
    with pytest.raises(ConfigError, match="renamed"):
        use(weights, cases=[{"image": str(renamed)}])
    assert use(weights, cases=[{"image": str(other)}]) == []
    assert "same names as case_1, but with other images" in log.text


def test_the_name_decides_if_there_are_no_files(weights: Path, cases: Any, tmp_path: Path) -> None:
    absent = {"image": str(tmp_path / "case_0.nii.gz")}
    with pytest.raises(ConfigError, match="case_0"):
        use(weights, cases=[absent])


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([Orientationd("image", "SAR")], "Orientationd, ScaleIntensityd against Orientationd"),
        (
            [Orientationd("image", "RAS"), ScaleIntensityd("image")],
            "Orientationd .*axcodes 'SAR' against 'RAS'",
        ),
        (
            [Orientationd("image", "SAR"), ScaleIntensityd("image", 0.0, 2.0)],
            "ScaleIntensityd .*maxv 1.0 against 2.0",
        ),
        (
            [ScaleIntensityd("image"), Orientationd("image", "SAR")],
            "against ScaleIntensityd, Orientationd",
        ),
    ],
)
def test_another_preprocessing_is_refused(weights: Path, steps: Any, message: str) -> None:
    with pytest.raises(WeightsError, match=f"another preprocessing than this config: .*{message}"):
        use(weights, Compose(steps))


def test_settings_that_another_version_of_monai_has_do_not_count() -> None:
    then = image_recipe(Compose([Spacingd("image", (1.0, 1.0, 2.0))]))
    now = json.loads(json.dumps(then))
    del now[0]["Spacingd"]["align_corners"]
    now[0]["Spacingd"]["new"] = 1
    assert preprocessing_difference(json.loads(json.dumps(then)), now) is None
    now[0]["Spacingd"]["keys"] = ["other"]
    assert "keys" in str(preprocessing_difference(then, now))


def test_weights_of_earlier_versions_get_a_notice(
    tmp_path: Path, cases: Any, log: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "model.pt"
    assert use(path, cases=cases) == [] and log.text == ""
    path.with_suffix(".json").write_text(json.dumps({"sha256": "0" * 64}))
    assert use(path, cases=cases) == [] and "neither can be checked" in log.text


def test_a_training_notes_what_it_learns_from_and_the_other_fold_is_refused(
    train_workflow: Callable[..., ConfigWorkflow], phantom: Path, tmp_path: Path
) -> None:
    folders = {name: str(tmp_path / name) for name in ("ckpt_dir", "output_dir", "prepared_dir")}
    workflow = train_workflow(**folders, epochs=1, iterations_per_epoch=1, fold=0, num_folds=3)
    workflow.run()
    weights = tmp_path / "ckpt_dir" / "model.pt"
    learnt = model_facts(weights)["learnt_from"]
    parts = (("trained", "train#dataset"), ("held_out", "validate#dataset"))
    for name, dataset in parts:
        names = {name_mark(name_of(case)) for case in part(workflow, dataset).data}
        assert learnt[name].keys() == names and None not in learnt[name].values()
    assert learnt["fold"] == 0 and len(learnt["preprocessing"]) == 7

    evaluate_json = json.loads((BUNDLE / "configs" / "evaluate.json").read_text())

    def evaluate(fold: int, **overrides: Any) -> dict[str, Any]:
        settings = {**evaluate_json, **folders, "num_folds": 3, "fold": fold, **overrides}
        train_workflow(**settings).run()
        path = tmp_path / "output_dir" / "scores.json"
        content: dict[str, Any] = json.loads(path.read_text())
        return content

    assert "trained_cases" not in evaluate(0)
    with pytest.raises(ConfigError, match="is the model of fold 0 and was trained on 2 of 2"):
        evaluate(1)
    marked = evaluate(1, allow_trained_cases=True)
    assert sorted(marked["trained_cases"]) == sorted(marked["cases"])
    # the same weights do not predict with another preprocessing
    settings = {
        "preprocessing#transforms#6": {"_target_": "ScaleIntensityd", "keys": "image"},
        **{**TINY, "weights_file": str(weights), "input": str(phantom / "imagesTs")},
        "output_dir": str(tmp_path / "masks"),
    }
    with pytest.raises(Exception, match=r".*") as caught:
        load_workflow(BUNDLE, "inference.json", settings=settings).run()
    assert "trained with another preprocessing" in str(find_user_error(caught.value))
    assert torch.load(weights, weights_only=True)
