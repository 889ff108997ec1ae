"""The real MONAI Label serves two packaged bundles; ``make test-clients`` makes its environment and runs this."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from client_bundles import FRONT_BACK, HEAD_TAIL, package_bundle, predict
from label_server import LABEL, START_TIMEOUT_S, LabelServer, labelled_studies

pytestmark = pytest.mark.clients

IMAGE = "phantom_000"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("packages")
    return {name: package_bundle(folder, name) for name in (HEAD_TAIL, FRONT_BACK)}


@pytest.fixture(scope="module")
def server(
    bundles: dict[str, Path], phantom: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LabelServer]:
    if not (LABEL / ".installed").is_file():
        pytest.skip("there is no .venv-label; make test-clients makes it")
    folder = tmp_path_factory.mktemp("label")
    studies = labelled_studies(folder / "studies", phantom)
    server = LabelServer(folder, list(bundles.values()), studies)
    try:
        assert server.wait() < START_TIMEOUT_S
        yield server
    finally:
        server.stop()


def array(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def test_the_server_lists_both_models_with_their_labels(server: LabelServer) -> None:
    info = server.info()
    labels = {name: model["labels"] for name, model in info["models"].items()}
    assert labels == {HEAD_TAIL: {"head": 1, "tail": 2}, FRONT_BACK: {"front": 1, "back": 2}}
    assert {model["type"] for model in info["models"].values()} == {"segmentation"}
    assert set(info["trainers"]) == {HEAD_TAIL, FRONT_BACK}
    assert sorted(info["labels"]) == ["back", "front", "head", "tail"]
    options = info["models"][HEAD_TAIL]["config"]
    assert options["mirroring"] is False
    assert options["overlap"] == 0.5


@pytest.fixture(scope="module")
def masks(server: LabelServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What the server gives for one image: by one bundle, by the other, by the first again."""
    folder = tmp_path_factory.mktemp("masks")
    return {
        key: server.infer(name, IMAGE, folder / f"{key}.nii.gz")
        for key, name in (("first", HEAD_TAIL), ("second", FRONT_BACK), ("again", HEAD_TAIL))
    }


@pytest.mark.parametrize(("key", "name"), [("first", HEAD_TAIL), ("second", FRONT_BACK)])
def test_a_mask_equals_that_of_the_bundle_command(
    key: str,
    name: str,
    masks: dict[str, Path],
    bundles: dict[str, Path],
    phantom: Path,
    tmp_path: Path,
) -> None:
    source = phantom / "imagesTr" / f"{IMAGE}.nii.gz"
    served, image = nib.load(masks[key]), nib.load(source)
    assert served.shape == image.shape
    np.testing.assert_array_equal(served.affine, image.affine)
    ours = array(predict(bundles[name], source, tmp_path))
    np.testing.assert_array_equal(np.asarray(served.dataobj), ours)
    assert ours.any()


def test_the_bundles_do_not_disturb_each_other(masks: dict[str, Path]) -> None:
    np.testing.assert_array_equal(array(masks["first"]), array(masks["again"]))
    assert (array(masks["first"]) != array(masks["second"])).any()


def test_an_option_of_the_client_reaches_the_inference(
    server: LabelServer, masks: dict[str, Path], tmp_path: Path
) -> None:
    mirrored = server.infer(HEAD_TAIL, IMAGE, tmp_path / "mirrored.nii.gz", mirroring=True)
    assert (array(mirrored) != array(masks["first"])).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"overlap": 2}, "the option overlap is 2. It must be a number, at least 0 and below 1."),
        ({"mirroring": "maybe"}, "the option mirroring is 'maybe'. It must be true or false."),
        (
            {"device": "gpu"},
            "the option device is 'gpu'. It must be a device such as cpu or cuda:0.",
        ),
    ],
)
def test_a_bad_option_is_named_and_does_not_stay(
    options: dict[str, Any],
    message: str,
    server: LabelServer,
    masks: dict[str, Path],
    tmp_path: Path,
) -> None:
    status, answer = server.refusal(HEAD_TAIL, IMAGE, **options)
    assert (status, json.loads(answer)) == (400, {"detail": message})
    after = server.infer(HEAD_TAIL, IMAGE, tmp_path / "after.nii.gz")
    np.testing.assert_array_equal(array(after), array(masks["first"]))


def test_an_image_that_is_not_there_is_not_taken_from_the_current_folder(
    server: LabelServer, phantom: Path
) -> None:
    """The server's current folder has an image, and a file with the name of the request."""
    here = server.folder / "unknown.nii.gz"
    shutil.copy(phantom / "imagesTr" / f"{IMAGE}.nii.gz", here)
    for image, problem in (
        ("nothing", "there is no image of that name"),
        ("session_id=nothing", "no such session"),
        (here.name, "is not among the studies"),
    ):
        status, answer = server.refusal(HEAD_TAIL, image)
        assert status == 400 and problem in answer, answer


def test_a_session_and_an_uploaded_image_have_the_mask_of_the_command(
    server: LabelServer, bundles: dict[str, Path], phantom: Path, tmp_path: Path
) -> None:
    source = phantom / "imagesTs" / "phantom_006.nii.gz"
    expected = array(predict(bundles[HEAD_TAIL], source, tmp_path / "command"))
    session = server.upload("/session/", {}, files=source)["session_id"]
    assert server.upload("/datastore/image?image=new", {}, file=source) == {"image": "new"}
    try:
        for image in (f"session_id={session}", "new"):
            served = server.infer(HEAD_TAIL, image, tmp_path / "served.nii.gz")
            np.testing.assert_array_equal(array(served), expected)
    finally:
        server.remove_image("new")


@pytest.mark.parametrize("run_sync", [True, False])
def test_a_batch_saves_the_masks_of_single_requests(
    run_sync: bool, server: LabelServer, masks: dict[str, Path]
) -> None:
    tag = f"batch_{run_sync}"
    server.batch_infer(HEAD_TAIL, run_sync, label_tag=tag)
    saved = server.folder / "studies" / "labels" / tag
    assert len(list(saved.iterdir())) == 6
    np.testing.assert_array_equal(array(saved / f"{IMAGE}.nii.gz"), array(masks["first"]))


@pytest.mark.parametrize(
    ("name", "run_sync", "earlier"),
    [(HEAD_TAIL, True, 1), (FRONT_BACK, True, 1), (HEAD_TAIL, False, 2)],
)
def test_a_training_renews_the_model(
    name: str,
    run_sync: bool,
    earlier: int,
    server: LabelServer,
    masks: dict[str, Path],
    tmp_path: Path,
) -> None:
    weights = server.model(name) / "models" / "model.pt"
    before, time_before = torch.load(weights, weights_only=True), weights.stat().st_mtime_ns
    # a third of six cases for the validation; 3D Slicer sends an empty run_id, for which MONAI runs all ids
    server.train(name, run_sync, max_epochs=1, val_split=0.34, run_id="")
    after = torch.load(weights, weights_only=True)
    assert weights.stat().st_mtime_ns > time_before
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[key], after[key]) for key in before)
    # it started from the old weights: an epoch of one step moves them little
    for key in before:
        assert (after[key] - before[key]).abs().max() < 0.1
    assert f"{name}/models/model.pt" in server.log
    # it trained once, and kept the model that was there
    kept = server.model(name) / "models" / f"earlier_run_{earlier}" / "model.pt"
    assert len(list((server.model(name) / "models").glob("earlier_run_*"))) == earlier
    kept_weights = torch.load(kept, weights_only=True)
    assert all(torch.equal(kept_weights[key], before[key]) for key in before)
    server.infer(name, IMAGE, tmp_path / "after.nii.gz")


def test_the_log_tells_of_no_trouble(server: LabelServer, masks: dict[str, Path]) -> None:
    for trouble in ("Checkpoint keys don't match", "Traceback", "[ERROR]"):
        assert trouble not in server.log
