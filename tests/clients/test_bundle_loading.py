"""Clients without a server: a package, unzipped by MONAI, is loaded from Python as MONAI Deploy and MONAI FL do."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from client_bundles import HEAD_TAIL, package_bundle, predict
from monai.apps import extractall
from monai.bundle import ConfigWorkflow, create_workflow, load, load_bundle_config
from monai.data import MetaTensor
from monai.networks.nets import DynUNet
from monai.utils import convert_to_dst_type


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that a client has after it unpacked the zip."""
    made = package_bundle(tmp_path_factory.mktemp("packages"), HEAD_TAIL)
    folder = tmp_path_factory.mktemp("client")
    archive = next(made.parent.glob("*.zip"))
    extractall(str(archive), str(folder), file_type="zip")
    assert [path.name for path in folder.iterdir()] == [HEAD_TAIL]
    return folder / HEAD_TAIL


def test_monai_load_gives_the_network_with_its_weights(bundle: Path) -> None:
    network = load(HEAD_TAIL, bundle_dir=str(bundle.parent), workflow_type="inference")
    assert isinstance(network, DynUNet)
    expected = torch.load(bundle / "models" / "model.pt", weights_only=True)
    state = network.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[key], expected[key]) for key in state)


def test_a_config_workflow_predicts_what_the_command_does(
    bundle: Path, phantom: Path, tmp_path: Path
) -> None:
    image = next((phantom / "imagesTs").iterdir())
    workflow = ConfigWorkflow(
        config_file=str(bundle / "configs" / "inference.json"),
        meta_file=str(bundle / "configs" / "metadata.json"),
        logging_file=False,
        workflow_type="infer",
        bundle_root=str(bundle),
        input=str(image),
        output_dir=str(tmp_path / "python"),
        device="cpu",
    )
    workflow.initialize()
    assert workflow.check_properties() == []
    workflow.run()
    ours = nib.load(tmp_path / "python" / image.name)
    theirs = nib.load(predict(bundle, image, tmp_path / "command"))
    np.testing.assert_array_equal(np.asarray(ours.dataobj), np.asarray(theirs.dataobj))
    np.testing.assert_array_equal(ours.affine, nib.load(image).affine)


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.float64])
def test_the_parts_that_a_client_runs_by_itself_give_the_mask(
    dtype: type, bundle: Path, phantom: Path, tmp_path: Path
) -> None:
    """MONAI Deploy's operator takes transforms, inferer and network out of the config, for an image in memory.

    It leaves out transforms with LoadImage or SaveImage in the name of their class. The image has the data type that
    its DICOM loader gives.
    """
    first = nib.load(next((phantom / "imagesTs").iterdir()))
    voxels = np.asanyarray(first.dataobj).clip(0).round().astype(dtype)
    image = tmp_path / "image.nii.gz"
    nib.save(nib.Nifti1Image(voxels.astype(np.float32), first.affine), image)
    workflow = create_workflow(
        config_file=str(bundle / "configs" / "inference.json"),
        workflow_type="infer",
        logging_file=False,
        bundle_root=str(bundle),
        dataset_dir=str(phantom),
        output_dir=str(tmp_path / "operator"),
        device="cpu",
    )
    for name in ("preprocessing", "postprocessing"):
        compose = getattr(workflow, name)
        kept = [step for step in compose.transforms if "LoadImage" not in type(step).__name__]
        compose.transforms = tuple(step for step in kept if "SaveImage" not in type(step).__name__)
    meta = {"affine": first.affine, "original_channel_dim": "no_channel"}
    given = MetaTensor.ensure_torch_and_prune_meta(convert_to_dst_type(voxels, voxels)[0], meta)
    data = workflow.preprocessing({"image": given})
    network = workflow.network_def.eval()
    network.load_state_dict(torch.load(bundle / "models" / "model.pt", weights_only=True))
    with torch.no_grad():
        logits = workflow.inferer(data["image"][None], network)
    assert logits.shape == (1, 3, *data["image"].shape[1:])
    mask = workflow.postprocessing({"pred": logits[0], **data})["pred"]
    expected = np.asanyarray(nib.load(predict(bundle, image, tmp_path / "command")).dataobj)
    np.testing.assert_array_equal(np.asarray(mask)[0], expected)
    assert not (tmp_path / "operator").exists()


def test_the_zip_is_read_without_unpacking(bundle: Path, tmp_path: Path) -> None:
    """``load_bundle_config`` wants an archive that is called as its top folder."""
    made = package_bundle(tmp_path, HEAD_TAIL)
    archive = next(made.parent.glob("*.zip")).rename(tmp_path / f"{HEAD_TAIL}.zip")
    config = load_bundle_config(str(archive), "inference.json")
    assert config["label_names"] == ["background", "head", "tail"]
    labels = config["_meta_"]["network_data_format"]["outputs"]["pred"]["channel_def"]
    assert list(labels.values()) == config["label_names"]
    assert json.loads((bundle / "configs" / "metadata.json").read_text()) == config["_meta_"]
