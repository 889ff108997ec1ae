"""From a model of this bundle to a results folder of nnU-Net, and back."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import BUNDLE, ROOT, run_script
from helpers.nnunet_results import make_results, nnunet_state, seeded_network
from helpers.saved_models import CT, FLAT, PLAN, REGIONS, TWO_D, built, save_model

from dynunet_bundle.errors import OutputError, PlanError, WeightsError
from dynunet_bundle.networks.architectures import plain_network
from dynunet_bundle.networks.model_json import model_facts
from dynunet_bundle.nnunet.checkpoint import read_checkpoint
from dynunet_bundle.nnunet.exporting import NnunetExportRequest, export_nnunet
from dynunet_bundle.nnunet.importing import ImportRequest, import_nnunet
from dynunet_bundle.nnunet.names import load_nnunet_state
from dynunet_bundle.nnunet.names import nnunet_state as written_state
from dynunet_bundle.nnunet.plans import imported_plan
from dynunet_bundle.nnunet.results_folder import read_results

PLANS: dict[str, dict[str, Any]] = {
    "plain": {},
    "plain 2d": TWO_D,
    "coronal axis first": {"axcodes": "ASR"},
    "right axis first": {"axcodes": "RSA"},
    "axes as stored": {"axcodes": "yxz"},
    "kernels that differ": {"architecture": "PlainConvUNet", "kernel_sizes": FLAT},
    "residual": {"architecture": "ResidualEncoderUNet", "kernel_sizes": FLAT},
    "residual 2d": {**TWO_D, "architecture": "ResidualEncoderUNet"},
    "custom filters": {"filters": [5, 7, 11, 13]},
    "batch norm": {"norm_name": ["BATCH", {"affine": True}]},
    "slope": {"negative_slope": 0.2, "norm_name": ["INSTANCE", {"affine": True, "eps": 1e-3}]},
    "cascade": {"cascade": True},
    "regions": REGIONS,
    "regions of single labels": {
        "regions": {"head": [1], "tail": [2]},
        "regions_class_order": [1, 2],
    },
    "ignored voxels": {"ignore_value": 3},
    "channels": {
        "channel_names": ["CT", "T1", "T2", "grey", "raw"],
        "normalization": ["ct", "zscore", "zscore_nonzero", "rescale_to_0_1", "none"],
        "intensity_statistics": [CT, None, None, None, None],
    },
}


def exported(model: Path, output: Path, **changes: Any) -> Path:
    return export_nnunet(NnunetExportRequest(BUNDLE, model, output, **changes)).folder


def imported(results: Path, output: Path, **changes: Any) -> Path:
    """The package of a results folder."""
    request = ImportRequest(
        BUNDLE, results, "phantom_mri_segmentation", output, ROOT / "CHANGELOG.md", **changes
    )
    return import_nnunet(request).folder


def require_equal_weights(one: Path, other: Path) -> None:
    states = [torch.load(path, weights_only=True) for path in (one, other)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


@pytest.mark.parametrize("kind", PLANS)
def test_there_and_back(kind: str, tmp_path: Path) -> None:
    model = save_model(tmp_path / "model.pt", **PLANS[kind])
    results = read_results(exported(model, tmp_path / "out"), None, "final")
    checkpoint = read_checkpoint(results.checkpoints["0"])
    found = imported_plan(
        results.plans,
        results.dataset,
        checkpoint.configuration,
        "Task99_Phantom",
        results.folder,
    ).overlay()
    state = load_nnunet_state(built(found), checkpoint.state, 3, results.folder)
    expected = torch.load(model, weights_only=True)
    assert state.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in state.items())
    plan = {"norm_name": ["INSTANCE", {"affine": True}], **PLAN, **PLANS[kind]}
    plan["filters"] = plan["filters"][:3]
    if "regions" in plan:
        # nnU-Net has names for regions only; a class has that of the region of its value alone, or a number
        plan["label_names"] = found["label_names"]
    assert {name: found[name] for name in plan} == plan
    assert (checkpoint.mirror_axes, checkpoint.epoch) == ((0,), 3)


@pytest.mark.parametrize("kind", ["PlainConvUNet", "ResidualEncoderUNet"])
@pytest.mark.parametrize("dims", [2, 3])
def test_back_and_there(kind: str, dims: int, tmp_path: Path) -> None:
    results = make_results(tmp_path / "results", kind, dims, folds=("1", "2"))
    package = imported(results, tmp_path)
    folder = exported(package, tmp_path / "out")
    assert folder.name == f"nnUNetTrainer__nnUNetPlans__{'2d' if dims == 2 else '3d_fullres'}"
    plans, again = (json.loads((place / "plans.json").read_text()) for place in (results, folder))
    for name in ("transpose_forward", "image_reader_writer"):
        assert plans[name] == again[name]
    (theirs,), (ours,) = plans["configurations"].values(), again["configurations"].values()
    for name in theirs:
        if name != "architecture":
            assert ours[name] == theirs[name], name
    architecture = ours["architecture"]
    assert architecture["network_class_name"] == theirs["architecture"]["network_class_name"]
    arguments = architecture["arch_kwargs"]
    slope = arguments["nonlin_kwargs"].pop("negative_slope")
    arguments["norm_op_kwargs"].setdefault("eps", 1e-5)
    assert (arguments, slope) == (theirs["architecture"]["arch_kwargs"], 0.01)
    for fold in ("1", "2"):
        one, other = (
            read_checkpoint(place / f"fold_{fold}" / "checkpoint_final.pth")
            for place in (results, folder)
        )
        assert one.state.keys() == other.state.keys()
        assert (one.configuration, one.mirror_axes) == (other.configuration, other.mirror_axes)
        last = "decoder.seg_layers.1."
        for name, value in one.state.items():
            is_unused = name.endswith(("conv.bias", "modules.0.bias")) and kind == "PlainConvUNet"
            if not is_unused and ("seg_layers" not in name or last in name):
                assert torch.equal(value, other.state[name]), name


@pytest.mark.parametrize(
    ("kind", "levels", "names"), [("PlainConvUNet", 4, 188), ("ResidualEncoderUNet", 4, 536)]
)
def test_all_names_of_nnunets_state(kind: str, levels: int, names: int) -> None:
    """As counted in the checkpoints of nnU-Net 2.8.1, which loads strictly."""
    network = plain_network(
        kind,
        spatial_dims=3,
        in_channels=1,
        out_channels=3,
        kernel_sizes=[[3] * 3] * levels,
        strides=[[1] * 3] + [[2] * 3] * (levels - 1),
        filters=[4, 6, 8, 10],
    )
    state = written_state(network, levels)
    assert len(state) == names
    assert len({value.data_ptr() for value in state.values()}) < names / 2
    if kind == "PlainConvUNet":
        lowest = state["decoder.seg_layers.0.weight"]
        assert tuple(lowest.shape) == (3, 8, 1, 1, 1) and not lowest.any()
        assert not state["decoder.encoder.stages.3.0.convs.1.all_modules.0.bias"].any()


def test_names_are_those_of_the_helper() -> None:
    network = seeded_network(0)
    assert written_state(network, 3).keys() == nnunet_state(network).keys()


def test_what_a_checkpoint_holds(tmp_path: Path) -> None:
    model = save_model(tmp_path / "model.pt", facts={"mirror_axes": []})
    file = exported(model, tmp_path / "out") / "fold_0" / "checkpoint_final.pth"
    content = torch.load(file, weights_only=True)
    assert content.pop("network_weights").keys() == nnunet_state(seeded_network(0)).keys()
    assert content == {
        "trainer_name": "nnUNetTrainer",
        "init_args": {"configuration": "3d_fullres"},
        "inference_allowed_mirroring_axes": None,
        "current_epoch": 3,
    }


def test_members_are_folds_and_mirror_over_common_axes(tmp_path: Path) -> None:
    save_model(tmp_path / "model_2.pt", 1, {"mirror_axes": [1, 2]})
    model = save_model(
        tmp_path / "model.pt", facts={"members": ["model_2.pt"], "mirror_axes": [0, 2]}
    )
    written = export_nnunet(NnunetExportRequest(BUNDLE, model, tmp_path / "out"))
    assert written.folds == ["0", "1"]
    assert written.commands()[0].endswith("-f 0 1")
    package = imported(written.folder, tmp_path / "package")
    require_equal_weights(model, package / "models" / "model.pt")
    require_equal_weights(tmp_path / "model_2.pt", package / "models" / "model_2.pt")
    assert model_facts(package / "models" / "model.pt")["mirror_axes"] == [2]


def test_both_stages_of_a_cascade(tmp_path: Path) -> None:
    model = save_model(tmp_path / "model.pt", cascade=True)
    low = save_model(
        tmp_path / "previous_stage" / "model.pt",
        1,
        {"keep_largest": [[1]], "origin": {"configuration": "low"}},
        spacing=[4.0] * 3,
    )
    written = export_nnunet(NnunetExportRequest(BUNDLE, model, tmp_path / "out"))
    assert written.previous is not None
    assert written.previous.folder == tmp_path / "out" / "nnUNetTrainer__nnUNetPlans__3d_lowres"
    first, rules, second = written.commands()
    assert "-o PREVIOUS_MASKS" in first and "-o FINAL_PREVIOUS_MASKS" in rules
    assert second.endswith("-f 0 -prev_stage_predictions FINAL_PREVIOUS_MASKS")
    models = imported(written.folder, tmp_path / "package") / "models"
    require_equal_weights(model, models / "model.pt")
    require_equal_weights(low, models / "previous_stage" / "model.pt")
    shutil.rmtree(written.folder)
    with pytest.raises(OutputError, match="3d_lowres exists"):
        exported(model, tmp_path / "out")
    assert not written.folder.exists()


def test_component_rules_come_along(tmp_path: Path) -> None:
    model = save_model(tmp_path / "model.pt", facts={"keep_largest": [[1, 2], [1]]})
    written = export_nnunet(NnunetExportRequest(BUNDLE, model, tmp_path / "out"))
    assert "nnUNetv2_apply_postprocessing" in written.commands()[1]
    for removed in (None, "postprocessing.json"):
        if removed:
            (written.folder / removed).unlink()
        package = imported(written.folder, tmp_path / str(removed))
        assert model_facts(package / "models" / "model.pt")["keep_largest"] == [[1, 2], [1]]


def test_names_and_values_that_nnunet_has_otherwise(tmp_path: Path) -> None:
    model = save_model(
        tmp_path / "model.pt",
        label_names=["clear", "ignore", "background"],
        ignore_value=255,
    )
    written = export_nnunet(NnunetExportRequest(BUNDLE, model, tmp_path / "out"))
    content = json.loads((written.folder / "dataset.json").read_text())
    assert content["labels"] == {"background": 0, "ignore 2": 1, "background 2": 2, "ignore": 3}
    assert "the ignore label is 3 in nnU-Net" in written.notes[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kernel_sizes": FLAT}, "kernels differ by level.*PlainConvUNet"),
        ({"norm_name": ["GROUP", {"num_groups": 2}]}, "the norm is .GROUP."),
        ({"axcodes": "SPL"}, "directions S, A and R only"),
        ({"label_values": [0, 128, 255]}, "would have 0, 1, 2"),
        (
            {"strides": [[1] * 3, [4] * 3, [2] * 3], "architecture": "PlainConvUNet"},
            r"stride \[4, 4, 4\]",
        ),
        (
            {**REGIONS, "regions": {"whole": [1, 2]}, "regions_class_order": [1], "cascade": True},
            "each",
        ),
    ],
)
def test_what_nnunet_cannot_express_is_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    model = save_model(tmp_path / "model.pt", **changes)
    with pytest.raises(PlanError, match=rf"model\.pt cannot be exported for nnU-Net: .*{message}"):
        exported(model, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*"))


def test_a_preprocessing_of_its_own_is_refused(tmp_path: Path) -> None:
    learnt = {"fold": 0, "trained": {}, "held_out": {}, "preprocessing": [{"GaussianSmoothd": {}}]}
    model = save_model(tmp_path / "model.pt", facts={"learnt_from": learnt})
    with pytest.raises(PlanError, match="GaussianSmoothd.*plans.json cannot say"):
        exported(model, tmp_path / "out")


@pytest.mark.parametrize(
    ("ending", "changes", "reader"),
    [
        (".nii.gz", {}, "NibabelIOWithReorient"),
        (".nrrd", {}, "SimpleITKIOWithReorient"),
        (".nii.gz", {"axcodes": "zyx"}, "SimpleITKIO"),
        (".nii", {"axcodes": "zyx"}, "NibabelIO"),
        (".tif", {"axcodes": "zyx"}, "Tiff3DIO"),
        (".png", {"axcodes": "zyx", **TWO_D}, "NaturalImage2DIO"),
        (".png", TWO_D, None),
        (".dcm", {}, None),
    ],
)
def test_the_reader_by_the_files_and_the_axes(
    ending: str, changes: dict[str, Any], reader: str | None, tmp_path: Path
) -> None:
    model = save_model(tmp_path / "model.pt", **changes)
    if reader is None:
        with pytest.raises(PlanError, match="nnU-Net (reads .png with the axes|does not read)"):
            exported(model, tmp_path / "out", file_ending=ending)
        return
    folder = exported(model, tmp_path / "out", file_ending=ending)
    assert json.loads((folder / "plans.json").read_text())["image_reader_writer"] == reader
    assert json.loads((folder / "dataset.json").read_text())["file_ending"] == ending


def test_a_training_of_nnunet_is_not_replaced(tmp_path: Path) -> None:
    model = save_model(tmp_path / "model.pt")
    folder = exported(model, tmp_path / "out")
    before = (folder / "plans.json").read_bytes()
    with pytest.raises(OutputError, match="may be a training of nnU-Net"):
        exported(model, tmp_path / "out")
    assert (folder / "plans.json").read_bytes() == before
    shutil.rmtree(folder)
    with pytest.raises(WeightsError, match="neither models/model.pt nor model.pt"):
        exported(tmp_path / "out", tmp_path / "out")


def test_the_name_of_a_configuration_stays_inside(tmp_path: Path) -> None:
    facts = {"origin": {"configuration": "../../3d_fullres", "file_ending": ".nrrd"}}
    folder = exported(save_model(tmp_path / "model.pt", facts=facts), tmp_path / "out")
    assert folder == tmp_path / "out" / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    facts["origin"]["configuration"] = "3d_fullres_bs40"
    folder = exported(save_model(tmp_path / "model.pt", facts=facts), tmp_path / "out")
    assert folder.name == "nnUNetTrainer__nnUNetPlans__3d_fullres_bs40"


def test_the_weights_of_the_bundle_by_the_command(tmp_path: Path) -> None:
    done = run_script("export", "--output_dir", tmp_path, "--formats", "nnunet")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    assert f"nnUNetv2_predict_from_modelfolder -i IMAGES -o MASKS -m {folder} -f 0" in done.stdout
    package = imported(folder, tmp_path / "package")
    require_equal_weights(BUNDLE / "models" / "model.pt", package / "models" / "model.pt")
    assert model_facts(package / "models" / "model.pt")["plan"]["axcodes"] == "SAR"
    done = run_script("export", "--output_dir", tmp_path, "--formats", "nnunet")
    assert done.returncode == 2 and "Choose another --output" in done.stderr
