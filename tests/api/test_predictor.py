"""Masks of ``Predictor`` equal those of the command ``predict`` for the same file, bit for bit."""

import json
import threading
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from conftest import run_script
from helpers.saved_models import CT, FLAT, REGIONS, TWO_D, save_model
from monai.data import MetaTensor
from monai.transforms import LoadImage

from dynunet_bundle import Predictor
from dynunet_bundle.errors import BundleError, CaseError, ConfigError, PredictionError, WeightsError

OBLIQUE = np.array([[-1.1, 0.1, 0.3, 30], [0.2, 0.1, -2.9, 12], [0.1, 1.4, 0.2, -7], [0, 0, 0, 1]])
"""Affine of a coronal volume, flipped and turned by a few degrees, with thick slices."""

TWO_CHANNELS = {
    "channel_names": ["T1", "CT"],
    "normalization": ["zscore", "ct"],
    "intensity_statistics": [None, CT],
}
GAPS = {"label_values": [0, 128, 300]}
PLANS: dict[str, dict[str, Any]] = {
    "3d": {},
    "oblique": {"spacing": [2.0, 1.0, 1.5], "kernel_sizes": FLAT},
    "two channels": TWO_CHANNELS,
    "stored axes": {"axcodes": "zyx", **TWO_CHANNELS},
    "regions": {**REGIONS, **TWO_CHANNELS},
    "gaps": GAPS,
    "2d on volumes": TWO_D,
}
PICTURES = {
    "grey": {**TWO_D, "spacing": [1.0, 1.0]},
    "colour": {
        **TWO_D,
        "spacing": [1.0, 1.0],
        "axcodes": "SPL",
        "channel_names": ["red", "green", "blue"],
        "normalization": ["zscore"] * 3,
        "intensity_statistics": [None] * 3,
    },
}


def volume_of(
    num_channels: int, shape: tuple[int, ...] = (21, 18, 13), seed: int = 0
) -> np.ndarray:
    """A body of noise on a zero margin ``[C, *spatial]``, float64 as ``get_fdata`` gives it."""
    array = np.zeros((num_channels, *shape))
    inner = (slice(None), *[slice(2, -3)] * len(shape))
    rng = np.random.default_rng(seed)
    array[inner] = rng.normal(40, 12, array[inner].shape).astype(np.float32)
    return array


def write_volume(folder: Path, name: str, array: np.ndarray, affine: np.ndarray) -> nib.Nifti1Image:
    """Write an image with channels as the last axis, and read it."""
    folder.mkdir(parents=True, exist_ok=True)
    voxels = np.moveaxis(array, 0, -1) if len(array) > 1 else array[0]
    nib.save(nib.Nifti1Image(voxels.astype(np.float32), affine), folder / f"{name}.nii.gz")
    return nib.load(folder / f"{name}.nii.gz")


def masks_of_command(folder: Path, output: Path, *options: Any) -> dict[str, np.ndarray]:
    """Masks of the command by case, in the order ``[X, Y, Z]`` of SimpleITK and nibabel."""
    done = run_script("predict", "--input", folder, "--output_dir", output, *options)
    assert done.returncode == 0, done.stderr
    cases = json.loads((output / "run.json").read_text())["cases"]
    return {name: read_mask(output / facts["mask"]) for name, facts in cases.items()}


def read_mask(path: Path) -> np.ndarray:
    if path.name.endswith(".nii.gz"):
        return np.asanyarray(nib.load(path).dataobj)
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path))).T


def require_same(mask: np.ndarray, expected: np.ndarray) -> None:
    assert mask.dtype == expected.dtype
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("kind", PLANS)
def test_volumes(kind: str, tmp_path: Path) -> None:
    weights = save_model(tmp_path / "model.pt", **PLANS[kind])
    array = volume_of(len(PLANS[kind].get("channel_names", ["MRI"])))
    affine = (
        OBLIQUE if kind in ("oblique", "stored axes", "2d on volumes") else np.diag([2.0, 2, 2, 1])
    )
    image = write_volume(tmp_path / "in", "a", array, affine)
    probabilities = tmp_path / "probabilities"
    options = ("--model", weights, "--device", "cpu", "--probabilities_dir", probabilities)
    expected = masks_of_command(tmp_path / "in", tmp_path / "out", *options)["a"]
    assert len(np.unique(expected)) > 1
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    predictor = Predictor(weights, device="cpu")
    values = array if len(array) > 1 else array[0]
    kept = values.copy()
    for given in ((values, image.affine), (values.astype(">f4"), image.affine), (image,)):
        require_same(predictor.predict(*given), expected)
    tensor = LoadImage(image_only=True)(str(tmp_path / "in" / "a.nii.gz"))
    require_same(predictor.predict(tensor.moveaxis(-1, 0) if len(array) > 1 else tensor), expected)
    np.testing.assert_array_equal(values, kept)
    shares = predictor.probabilities(image)
    assert shares.dtype == np.float32
    np.testing.assert_array_equal(shares.astype(np.float16), np.load(probabilities / "a.npy"))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("kind", PICTURES)
def test_pictures(kind: str, tmp_path: Path) -> None:
    weights = save_model(tmp_path / "model.pt", **PICTURES[kind])
    channels = len(PICTURES[kind].get("channel_names", ["grey"]))
    array = volume_of(channels, (37, 29)).astype(np.uint8)
    image = sitk.GetImageFromArray(array.T if channels > 1 else array[0].T, isVector=channels > 1)
    (tmp_path / "in").mkdir()
    sitk.WriteImage(image, str(tmp_path / "in" / "a.png"))
    options = ("--model", weights, "--device", "cpu")
    expected = masks_of_command(tmp_path / "in", tmp_path / "out", *options)["a"]
    assert expected.shape == (37, 29) and len(np.unique(expected)) > 1
    predictor = Predictor(weights, device="cpu")
    for given in (array, image, torch.from_numpy(array), *[array[0]] * (channels == 1)):
        require_same(predictor.predict(given), expected)
    assert predictor.probabilities(array).shape == (3, 37, 29)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_images_of_simpleitk(suffix: str, tmp_path: Path) -> None:
    weights = save_model(tmp_path / "model.pt", **TWO_CHANNELS)
    array = volume_of(2).astype(np.int16)
    image = sitk.GetImageFromArray(array.transpose(3, 2, 1, 0), isVector=True)
    image.SetSpacing((1.5, 2.0, 3.5))
    image.SetOrigin((3, -20, 7))
    image.SetDirection((0, 0, 1, -1, 0, 0, 0, -1, 0))
    (tmp_path / "in").mkdir()
    sitk.WriteImage(image, str(tmp_path / "in" / f"a{suffix}"))
    options = ("--model", weights, "--device", "cpu")
    expected = masks_of_command(tmp_path / "in", tmp_path / "out", *options)["a"]
    require_same(Predictor(weights, device="cpu").predict(image), expected)


def test_an_ensemble_with_mirroring_of_a_run_folder(tmp_path: Path) -> None:
    for fold in range(2):
        save_model(tmp_path / "run" / f"fold_{fold}" / "models" / "model.pt", seed=fold)
    image = write_volume(tmp_path / "in", "a", volume_of(1), OBLIQUE)
    options = ("--model", tmp_path / "run", "--device", "cpu", "--mirroring")
    expected = masks_of_command(tmp_path / "in", tmp_path / "out", *options)["a"]
    predictor = Predictor(tmp_path / "run", device="cpu", mirroring=True)
    require_same(predictor.predict(image), expected)
    assert (Predictor(tmp_path / "run", device="cpu").predict(image) != expected).any()


def test_overlays_and_rules_of_the_model_hold(tmp_path: Path) -> None:
    weights = save_model(tmp_path / "model.pt", facts={"keep_largest": [[1, 2]]})
    overlay = tmp_path / "overlay.json"
    overlay.write_text(json.dumps({"overlap": 0.7, "precision": "float32"}))
    image = write_volume(tmp_path / "in", "a", volume_of(1, (40, 30, 30)), np.diag([2.0, 2, 2, 1]))
    options = ("--model", weights, "--config_file", overlay, "--device", "cpu")
    expected = masks_of_command(tmp_path / "in", tmp_path / "out", *options)["a"]
    predictor = Predictor(weights=weights, config_files=[overlay], device="cpu")
    require_same(predictor.predict(image), expected)


def test_a_cascade_predicts_its_previous_stage(tmp_path: Path) -> None:
    weights = save_model(tmp_path / "model.pt", cascade=True, spacing=[1.0, 1.0, 1.0])
    image = write_volume(tmp_path / "in", "a", volume_of(1), OBLIQUE)
    with pytest.raises(ConfigError, match="its previous stage are not beside it"):
        Predictor(weights, device="cpu")
    save_model(tmp_path / "previous_stage" / "model.pt", seed=1)
    options = ("--model", weights, "--device", "cpu")
    expected = masks_of_command(tmp_path / "in", tmp_path / "out", *options)["a"]
    predictor = Predictor(weights, device="cpu")
    require_same(predictor.predict(image), expected)
    require_same(predictor.predict(volume_of(1)[0], image.affine), expected)


def test_many_images_and_one_that_fails(tmp_path: Path) -> None:
    predictor = Predictor(save_model(tmp_path / "model.pt"), device="cpu")
    arrays = [volume_of(1, seed=number)[0] for number in range(3)]
    affine = np.diag([2.0, 2, 2, 1])
    expected = [predictor.predict(array, affine) for array in arrays]
    taken: list[int] = []

    def cases() -> Any:
        for number, array in enumerate(arrays):
            taken.append(number)
            yield (f"case {number}", array, affine)

    for number, (name, mask) in enumerate(predictor.predict_many(cases())):
        assert name == f"case {number}" and len(taken) <= number + 2
        require_same(mask, expected[number])
    assert [name for name, _ in predictor.predict_many(iter(()))] == []
    bad = np.full((9, 9, 9), np.nan)
    found = []
    with pytest.raises(PredictionError, match=r"1 of 3 cases failed.*\n.*case b: .*NaN") as caught:
        for name, _ in predictor.predict_many(
            [("a", arrays[0], affine), ("b", bad, affine), ("c", arrays[1], affine)]
        ):
            found.append(name)
    assert found == ["a", "c"] and caught.value.exit_code == 1
    with pytest.raises(CaseError, match="case b: its image has 729 NaN"):
        list(predictor.predict_many([("b", bad, affine)]))
    with pytest.raises(ConfigError, match=r"of type str, not \(name, image\)"):
        list(predictor.predict_many(["a.nii.gz"]))


def test_an_error_of_the_iterable_is_raised_as_it_is(tmp_path: Path) -> None:
    predictor = Predictor(save_model(tmp_path / "model.pt"), device="cpu")

    def cases() -> Any:
        yield "a", volume_of(1)[0], np.eye(4)
        raise FileNotFoundError("b.nii.gz")

    names = []
    with pytest.raises(FileNotFoundError):
        for name, _ in predictor.predict_many(cases()):
            names.append(name)
    assert names == ["a"]


def test_threads_give_the_masks_of_one(tmp_path: Path) -> None:
    for fold in range(2):
        save_model(tmp_path / f"fold_{fold}" / "models" / "model.pt", seed=fold)
    predictor = Predictor(tmp_path, device="cpu")
    arrays = [volume_of(1, (18 + number, 20, 17), seed=number)[0] for number in range(4)]
    expected = [predictor.predict(array, OBLIQUE) for array in arrays]
    found: dict[int, np.ndarray] = {}

    def work(number: int) -> None:
        for _ in range(4):
            found[number] = predictor.predict(arrays[number], OBLIQUE)
            if (found[number] != expected[number]).any():
                return

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(4):
        require_same(found[number], expected[number])


def test_the_process_stays_as_it_is(tmp_path: Path) -> None:
    import logging
    import random

    weights = save_model(tmp_path / "model.pt")
    handlers, level = list(logging.getLogger().handlers), logging.getLogger().level
    torch.manual_seed(5)
    state = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    deterministic = torch.backends.cudnn.deterministic
    Predictor(weights, device="cpu").predict(volume_of(1)[0], OBLIQUE)
    assert logging.getLogger().handlers == handlers and logging.getLogger().level == level
    assert torch.equal(torch.get_rng_state(), state[0]) and random.getstate() == state[2]
    assert (np.random.get_state()[1] == state[1]).all()
    assert torch.backends.cudnn.deterministic == deterministic


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return Predictor(save_model(tmp_path_factory.mktemp("model") / "model.pt"), device="cpu")


GOOD = volume_of(1)[0]
BAD: dict[str, tuple[tuple[Any, ...], str]] = {
    "channels": ((volume_of(2), np.eye(4)), "has 2 channels, the plan has 1"),
    "path": (("a.nii.gz",), "type str. Pass a numpy array"),
    "list": ((GOOD.tolist(), np.eye(4)), "type list. Pass"),
    "object": ((GOOD.astype(object), np.eye(4)), "data type object"),
    "text": ((np.full((9, 9, 9), "a"), np.eye(4)), "data type <U1"),
    "complex": ((GOOD.astype(complex), np.eye(4)), "complex numbers the magnitude"),
    "nan": ((np.full((9, 9, 9), np.nan), np.eye(4)), "729 NaN or infinite voxels"),
    "too large for float32": ((GOOD * 1e300, np.eye(4)), "NaN or infinite voxels"),
    "constant": ((np.zeros((9, 9, 9)), np.eye(4)), "its image is constant"),
    "empty": ((np.zeros((9, 0, 9)), np.eye(4)), "no voxels"),
    "one axis": ((np.zeros(9), np.eye(4)), r"shape \(9,\)"),
    "five axes": ((np.zeros((1, 1, 9, 9, 9)), np.eye(4)), r"Pass \[X, Y, Z\]"),
    "no affine": ((GOOD,), "has no affine"),
    "affine of 3 x 3": ((GOOD, np.eye(3)), r"shape \(3, 3\). Pass a matrix of 4 x 4"),
    "affine of text": ((GOOD, "RAS"), "Pass a matrix of 4 x 4"),
    "ragged affine": ((GOOD, [[1, 0], [0]]), "Pass a matrix of 4 x 4"),
    "transposed affine": ((GOOD, OBLIQUE.T), "last row"),
    "affine with nan": ((GOOD, np.diag([1, np.nan, 1, 1])), "affine has numbers that are NaN"),
    "singular affine": ((GOOD, np.diag([1.0, 0, 1, 1])), "voxels of 0 mm3"),
    "two affines": ((nib.Nifti1Image(GOOD, np.eye(4)), np.eye(4)), "which has its own"),
    "affine of a MetaTensor": ((MetaTensor(GOOD), np.eye(4)), "MetaTensor, which has its own"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_images_are_refused(kind: str, predictor: Predictor) -> None:
    given, message = BAD[kind]
    for method in (predictor.predict, predictor.probabilities):
        with pytest.raises(BundleError, match=message) as caught:
            method(*given, name="x7")
        assert "\n" not in str(caught.value) and caught.value.exit_code == 2


def test_bad_models_are_refused(tmp_path: Path) -> None:
    weights = save_model(tmp_path / "model.pt", facts={"mirror_axes": []})
    with pytest.raises(WeightsError, match="trained with mirroring over the axes"):
        Predictor(weights, device="cpu", mirroring=True)
    with pytest.raises(ConfigError, match="Pass one of them"):
        Predictor(weights, weights=weights)
    with pytest.raises(ConfigError, match="weights is an empty list"):
        Predictor(weights=[])
    with pytest.raises(ConfigError, match="device"):
        Predictor(weights, device="tpu9")
    with pytest.raises(ConfigError, match="this machine has 0 GPUs"):
        Predictor(weights, device="cuda:7" if not torch.cuda.is_available() else "cuda:99")
    with pytest.raises(ConfigError, match="precision"):
        Predictor(weights, device="cpu", precision="half")
    with pytest.raises(ConfigError, match="checkpoint"):
        Predictor(weights, device="cpu", checkpoint="first")
    with pytest.raises(WeightsError, match="neither models/model.pt"):
        Predictor(tmp_path / "..", device="cpu")
    with pytest.raises(WeightsError, match="no weights at"):
        Predictor(tmp_path / "none.pt", device="cpu")


def test_a_metatensor_in_lps_is_turned(predictor: Predictor) -> None:
    turned = np.diag([-1.0, -1, 1, 1]) @ OBLIQUE
    tensor = MetaTensor(GOOD, affine=torch.tensor(turned), meta={"space": "LPS"})
    require_same(predictor.predict(tensor), predictor.predict(GOOD, OBLIQUE))


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["02_3d_aniso_2ch", "03_2d_on_3d", "04_2d_rgb_zscore"])
def test_models_of_nnunet_with_real_images(folder: str, real_data: Path, tmp_path: Path) -> None:
    source = real_data / "nnunet_models" / folder
    if not source.is_dir():
        pytest.skip("the models of nnU-Net (shared/data/nnunet_models) are not here")
    package = tmp_path / "any_mr_model"
    place = ("--output_dir", tmp_path, "--name", package.name)
    done = run_script("import_nnunet", "--model", source / "model", *place)
    assert done.returncode == 0, done.stderr
    options = ("--model", package, "--device", "cpu")
    expected = masks_of_command(source / "images", tmp_path / "out", *options)
    predictor = Predictor(package, device="cpu")
    inputs = json.loads((tmp_path / "out" / "run.json").read_text())["cases"]
    for name, mask in expected.items():
        files = [source / "images" / file["file"] for file in inputs[name]["inputs"]]
        if files[0].suffix == ".png":
            require_same(predictor.predict(sitk.ReadImage(str(files[0]))), mask)
            continue
        images = [nib.load(file) for file in files]
        array = np.stack([np.asanyarray(image.dataobj) for image in images])
        require_same(predictor.predict(array, images[0].affine), mask)
