"""From a results folder to a package that predicts."""

import json
import shutil
import warnings
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import BUNDLE, ROOT, run_script
from helpers.nnunet_results import (
    make_results,
    nnunet_state,
    plans_of,
    save_checkpoint,
    seeded_network,
)

from dynunet_bundle.errors import DatasetError, WeightsError
from dynunet_bundle.nnunet.importing import ImportRequest, import_nnunet
from dynunet_bundle.nnunet.results_folder import opened


def request(model: Path, output: Path, **changes) -> ImportRequest:
    values = {"name": "phantom_mri_segmentation", "changelog": ROOT / "CHANGELOG.md", **changes}
    return ImportRequest(bundle=BUNDLE, model=model, output=output, **values)


def masks(folder: Path) -> dict[str, np.ndarray]:
    return {
        path.name: np.asarray(nib.load(path).dataobj) for path in sorted(folder.glob("*.nii.gz"))
    }


def test_two_commands_from_a_results_folder_to_masks(phantom: Path, tmp_path: Path) -> None:
    results = make_results(
        tmp_path / "Dataset099_Phantom" / "nnUNetTrainer__nnUNetPlans__3d_fullres",
        folds=("0", "1", "all"),
    )
    done = run_script(
        "import_nnunet",
        *(
            "--model",
            results.parent,
            "--name",
            "phantom_mri_segmentation",
            "--output_dir",
            tmp_path,
        ),
    )
    assert done.returncode == 0, done.stderr
    package = tmp_path / "phantom_mri_segmentation"
    for option in ("--model", "--weights"):
        files = [package / "models" / name for name in ("model.pt", "model_2.pt")]
        done = run_script(
            "predict",
            *("--input", phantom / "imagesTs", "--output_dir", tmp_path / option[2:]),
            *(option, *([package] if option == "--model" else files)),
        )
        assert done.returncode == 0, done.stderr
    found, same = masks(tmp_path / "model"), masks(tmp_path / "weights")
    assert len(found) == 2 and found.keys() == same.keys()
    assert all(np.array_equal(found[name], same[name]) for name in found)
    assert any(mask.any() for mask in found.values())
    assert len(json.loads((tmp_path / "model" / "run.json").read_text())["weights"]) == 2


def test_the_package_runs_alone_with_all_folds(phantom: Path, tmp_path: Path) -> None:
    results = make_results(tmp_path / "results", folds=("0", "1"))
    package = import_nnunet(request(results, tmp_path / "out"))
    config = json.loads((package.folder / "configs" / "inference.json").read_text())
    assert [path.rpartition("/")[2] for path in config["weights_file"]] == [
        "model.pt'",
        "model_2.pt'",
    ]
    facts = json.loads((package.folder / "models" / "model.json").read_text())
    assert (facts["members"], facts["mirror_axes"]) == (["model_2.pt"], [0, 1, 2])
    assert facts["origin"]["trainer"] == "nnUNetTrainer"
    ours = torch.load(package.folder / "models" / "model_2.pt", weights_only=True)
    for name, value in seeded_network(1).named_parameters():
        assert torch.equal(ours[name], value)
    license_text = (package.folder / "docs" / "data_license.txt").read_text()
    assert "keep the licence that their authors gave them" in license_text


@pytest.mark.parametrize("kind", ["ResidualEncoderUNet", "PlainConvUNet"])
def test_networks_of_both_kinds_and_dimensions(kind: str, tmp_path: Path) -> None:
    for dims in (2, 3):
        results = make_results(tmp_path / f"{dims}", kind, dims)
        package = import_nnunet(request(results, tmp_path / f"out{dims}"))
        facts = json.loads((package.folder / "models" / "model.json").read_text())
        assert (facts["plan"]["spatial_dims"], facts["plan"]["axcodes"]) == (dims, "zyx")
        assert facts["mirror_axes"] == list(range(dims))


def test_rules_of_the_model_come_along(tmp_path: Path) -> None:
    results = make_results(tmp_path / "results")
    folder = results / "crossval_results_folds_0"
    folder.mkdir()
    step = "remove_all_but_largest_component_from_segmentation"
    content = {
        "postprocessing_fns": [step],
        "postprocessing_kwargs": [{"labels_or_regions": [1, 2]}],
    }
    (folder / "postprocessing.json").write_text(json.dumps(content))
    package = import_nnunet(request(results, tmp_path / "out"))
    facts = json.loads((package.folder / "models" / "model.json").read_text())
    config = json.loads((package.folder / "configs" / "inference.json").read_text())
    assert facts["keep_largest"] == config["keep_largest"] == [[1, 2]]


def test_rules_of_an_ensemble_are_written_beside_its_members(tmp_path: Path) -> None:
    data = tmp_path / "Dataset099_Phantom"
    results = make_results(data / "nnUNetTrainer__nnUNetPlans__3d_fullres")
    step = "remove_all_but_largest_component_from_segmentation"
    content = {
        "postprocessing_fns": [step, step],
        "postprocessing_kwargs": [{"labels_or_regions": 1}, {"labels_or_regions": 2}],
    }
    others = "ensemble___nnUNetTrainer__nnUNetPlans__2d___nnUNetTrainer__nnUNetPlans__3d_lowres___0"
    ours = "ensemble___nnUNetTrainer__nnUNetPlans__2d___nnUNetTrainer__nnUNetPlans__3d_fullres___0"
    for name in (others, ours):
        folder = data / "ensembles" / name
        folder.mkdir(parents=True)
        (folder / "postprocessing.json").write_text(json.dumps(content))
    package = import_nnunet(request(results, tmp_path / "out"))
    facts = json.loads((package.folder / "models" / "model.json").read_text())
    assert "keep_largest" not in facts
    (rules,) = (tmp_path / "out").glob("*.json")
    assert rules.stem == ours
    assert json.loads(rules.read_text()) == {"keep_largest": [[1], [2]]}


def test_a_zip_of_two_models_asks_which(tmp_path: Path) -> None:
    data = tmp_path / "Dataset099_Phantom"
    make_results(data / "nnUNetTrainer__nnUNetPlans__3d_fullres")
    make_results(data / "nnUNetTrainer__nnUNetPlans__2d", dims=2)
    archive = tmp_path / "models.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(data.rglob("*.*")):
            file.write(path, path.relative_to(tmp_path))
    with pytest.raises(DatasetError, match=r"models\.zip has the models .*--configuration"):
        import_nnunet(request(archive, tmp_path / "out"))
    package = import_nnunet(request(archive, tmp_path / "out", configuration="2d"))
    facts = json.loads((package.folder / "models" / "model.json").read_text())
    assert facts["plan"]["spatial_dims"] == 2
    with pytest.raises(DatasetError, match="Choose one"):
        import_nnunet(request(archive, tmp_path / "out", configuration="3d_lowres"))


def test_folds_are_chosen_as_nnunet_chooses(tmp_path: Path) -> None:
    results = make_results(tmp_path / "results", folds=("all", "1", "0"))
    package = import_nnunet(request(results, tmp_path / "out"))
    facts = json.loads((package.folder / "models" / "model.json").read_text())
    assert (facts["learnt_from"]["fold"], facts["members"]) == ("0", ["model_2.pt"])
    package = import_nnunet(request(results, tmp_path / "out", folds=["all"]))
    assert not list((package.folder / "models").glob("model_2*"))
    with pytest.raises(
        DatasetError, match="no checkpoint_final.pth of fold 3; it has the folds 0, 1, all"
    ):
        import_nnunet(request(results, tmp_path / "out", folds=["3"]))
    with pytest.raises(DatasetError, match="no checkpoint_best.pth"):
        import_nnunet(request(results, tmp_path / "out", checkpoint="best"))


def test_a_configuration_that_is_not_there_is_refused(tmp_path: Path) -> None:
    results = make_results(tmp_path / "a" / "b" / "c" / "nnUNetTrainer__nnUNetPlans__3d_fullres")
    with pytest.raises(DatasetError, match="has the configuration 3d_fullres, not 2d"):
        import_nnunet(request(results, tmp_path / "out", configuration="2d"))
    # from three folders above
    package = import_nnunet(request(tmp_path / "a", tmp_path / "out", configuration="3d_fullres"))
    assert package.folder.is_dir()


def test_batch_norm_is_told_by_the_weights(tmp_path: Path) -> None:
    """``nnUNetTrainerBN`` changes the norm, while plans.json says instance norm."""
    results = make_results(tmp_path / "results")
    network = seeded_network(0, norm_name=["BATCH", {"affine": True}])
    state = nnunet_state(network)
    save_checkpoint(results / "fold_0" / "checkpoint_final.pth", state)
    package = import_nnunet(request(results, tmp_path / "out"))
    facts = json.loads((package.folder / "models" / "model.json").read_text())
    assert facts["plan"]["norm_name"] == ["BATCH", {"affine": True}]
    ours = torch.load(package.folder / "models" / "model.pt", weights_only=True)
    name = "encoder.stages.0.0.convs.0."
    mean = state[f"{name}norm.running_mean"] - state[f"{name}conv.bias"]
    assert torch.equal(ours["input_block.norm1.running_mean"], mean)


def test_networks_without_biases(tmp_path: Path) -> None:
    results = make_results(tmp_path / "results")
    state = {
        name: value
        for name, value in nnunet_state(seeded_network(0)).items()
        if not name.endswith(".bias")
        or "norm" in name
        or "seg_layers" in name
        or ".all_mod" in name
    }
    save_checkpoint(results / "fold_0" / "checkpoint_final.pth", state)
    package = import_nnunet(request(results, tmp_path / "out"))
    ours = torch.load(package.folder / "models" / "model.pt", weights_only=True)
    assert not ours["upsamples.0.transp_conv.conv.bias"].any()
    assert ours["input_block.norm1.bias"].any()


def test_folds_of_two_trainings_are_refused(tmp_path: Path) -> None:
    results = make_results(tmp_path / "results", folds=("0", "1"))
    save_checkpoint(
        results / "fold_1" / "checkpoint_final.pth",
        nnunet_state(seeded_network(1)),
        inference_allowed_mirroring_axes=None,
    )
    with pytest.raises(WeightsError, match=r"mirroring over \(\)"):
        import_nnunet(request(results, tmp_path / "out"))


def cascade(folder: Path, low: str = "nnUNetTrainer__nnUNetPlans__3d_lowres") -> Path:
    """Results folders of both stages; the path of the second."""
    both = {
        "3d_lowres": {**plans_of()["configurations"]["3d_fullres"], "spacing": [3.0, 3.0, 3.0]},
        "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
    }
    second = folder / "nnUNetTrainer__nnUNetPlans__3d_cascade_fullres"
    for place, name, channels in ((folder / low, "3d_lowres", 1), (second, [*both][1], 3)):
        make_results(place, folds=())
        plans = json.loads((place / "plans.json").read_text())
        plans["configurations"] |= both
        (place / "plans.json").write_text(json.dumps(plans))
        save_checkpoint(
            place / "fold_0" / "checkpoint_final.pth",
            nnunet_state(seeded_network(0, in_channels=channels)),
            init_args={"configuration": name},
        )
    return second


def test_a_cascade_predicts_both_stages_in_one_command(phantom: Path, tmp_path: Path) -> None:
    second = cascade(tmp_path / "Dataset099_Phantom")
    facts = tmp_path / "facts.json"
    facts.write_text(json.dumps({"data_license": "CC0", "authors": "A. Author"}))
    options = ("--name", "phantom_mri_segmentation", "--output_dir", tmp_path, "--facts", facts)
    done = run_script("import_nnunet", "--model", second, *options)
    assert done.returncode == 0, done.stderr
    (archive,) = tmp_path.glob("*.zip")
    package = tmp_path / "phantom_mri_segmentation"
    first = package / "models" / "previous_stage"
    assert json.loads((first / "model.json").read_text())["plan"]["spacing"] == [3.0, 3.0, 3.0]
    images = tmp_path / "images"
    shutil.copytree(phantom / "imagesTs", images)
    (images / "bad.nii.gz").write_bytes(b"not an image")
    done = run_script(
        "predict", "--model", archive, "--input", images, "--output_dir", tmp_path / "both"
    )
    # one bad case does not end the others, in either stage
    assert done.returncode == 1 and "bad" in done.stderr
    assert "Traceback" not in done.stderr
    low = tmp_path / "low"
    given = ("--input", phantom / "imagesTs")
    assert run_script("predict", "--model", first, *given, "--output_dir", low).returncode == 0
    done = run_script(
        "predict",
        *("--model", package, *given, "--output_dir", tmp_path / "two", "--previous_dir", low),
    )
    assert done.returncode == 0, done.stderr
    found, same = masks(tmp_path / "both"), masks(tmp_path / "two")
    assert len(found) == 2 and found.keys() == same.keys()
    assert all(np.array_equal(found[name], same[name]) for name in found)
    assert masks(low).keys() == masks(tmp_path / "both" / "previous_stage").keys()


def test_the_previous_stage_may_lie_elsewhere(tmp_path: Path) -> None:
    second = cascade(tmp_path / "results", low="low")
    options = ("--name", "phantom_mri_segmentation", "--output_dir", tmp_path / "out")
    done = run_script("import_nnunet", "--model", second, *options)
    assert done.returncode == 0 and "--previous_model" in done.stdout + done.stderr
    models = tmp_path / "out" / "phantom_mri_segmentation" / "models"
    assert not (models / "previous_stage").exists()
    low = second.with_name("low")
    package = import_nnunet(request(second, tmp_path / "out", previous=low))
    assert (package.folder / "models" / "previous_stage" / "model.pt").is_file()
    with pytest.raises(DatasetError, match="configuration 3d_cascade_fullres, not 3d_lowres"):
        import_nnunet(request(second, tmp_path / "out", previous=second))
    with pytest.raises(DatasetError, match=r"not a cascade.*Omit --previous_model"):
        import_nnunet(request(low, tmp_path / "out", previous=low))


def test_weights_of_an_unknown_licence_are_not_published(tmp_path: Path) -> None:
    results = make_results(tmp_path / "results")
    package = import_nnunet(request(results, tmp_path / "out"))
    assert package.archive is None and not list((tmp_path / "out").glob("*.zip"))
    card = (package.folder / "docs" / "README.md").read_text()
    assert "trained with nnU-Net v2" in card and "Authors: not stated" in card
    facts = tmp_path / "facts.json"
    publish = (
        *("package", "--model", package.folder, "--config_file", tmp_path / "plan.json"),
        *("--name", "phantom_mri_segmentation", "--output_dir", tmp_path / "published"),
    )
    plan = json.loads((package.folder / "models" / "model.json").read_text())["plan"]
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    for content, message in (
        (None, "--facts is not given"),
        ({"authors": "A. Author"}, "lacks data_license"),
        ({"data_license": " "}, "lacks data_license and authors"),
    ):
        if content is not None:
            facts.write_text(json.dumps(content))
        done = run_script(*publish, *(() if content is None else ("--facts", facts)))
        assert done.returncode == 2 and message in done.stderr and "Ask them" in done.stderr
        assert not (tmp_path / "published").exists()
    facts.write_text(json.dumps({"data_license": "CC0", "authors": "A. Author"}))
    assert run_script(*publish, "--facts", facts).returncode == 0
    assert list((tmp_path / "published").glob("*.zip"))
    package = import_nnunet(request(results, tmp_path / "out", facts=facts))
    assert package.archive is not None and package.archive.is_file()
    card = (package.folder / "docs" / "README.md").read_text()
    assert "Authors: A. Author" in card
    # a draft does not leave the zip of another version of itself
    assert import_nnunet(request(results, tmp_path / "out")).archive is None
    assert not list((tmp_path / "out").glob("*.zip"))


@pytest.mark.parametrize("content", ["missing", "empty", "a zip of something else"])
def test_what_is_not_a_results_folder(content: str, tmp_path: Path) -> None:
    path = tmp_path / "models.zip"
    if content == "empty":
        path.write_bytes(b"")
    elif content != "missing":
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("a.txt", "a")
    with pytest.raises(DatasetError, match=r"models\.zip"):
        import_nnunet(request(path, tmp_path / "out"))
    assert not (tmp_path / "out" / "phantom_mri_segmentation").exists()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["../plans.json"], "leads out"),
        (["plans.json", "plans.json/plans.json"], "cannot be read"),
        (["a/plans.json", "a/plans.json"], "cannot be read"),
        (["x" * 300 + "/plans.json"], "cannot be read"),
        ([f"{number}/plans.json" for number in range(20_001)], "20000 are allowed"),
    ],
)
def test_a_hostile_zip_is_refused(tmp_path: Path, names: list[str], message: str) -> None:
    with zipfile.ZipFile(tmp_path / "models.zip", "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in names:
            archive.writestr(name, "{}")
    with pytest.raises(DatasetError, match=rf"models\.zip: .*{message}"):
        opened(tmp_path / "models.zip")
    assert not (tmp_path.parent / "plans.json").exists()


def test_a_zip_that_grows_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "models.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("fold_0/checkpoint_final.pth", "w") as file:
            for _ in range(300):
                file.write(bytes(1 << 20))
    with pytest.raises(DatasetError, match="would grow"):
        opened(tmp_path / "models.zip")
