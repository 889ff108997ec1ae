"""Masks decided a few planes at a time equal those of MONAI's transforms on all classes at once."""

import numpy as np
import pytest
import torch
from conftest import save_nifti
from monai.data import MetaTensor
from monai.transforms import (
    Activationsd,
    AsDiscreted,
    Compose,
    CropForegroundd,
    EnsureChannelFirstd,
    Invertd,
    LoadImaged,
    Orientationd,
)

from dynunet_bundle.inference import planes
from dynunet_bundle.inference.restore import RestoreClassesd
from dynunet_bundle.labels.regions_to_classes import RegionsToClassesd
from dynunet_bundle.labels.scheme import LabelScheme
from dynunet_bundle.preprocessing.reader import ImageFileReader
from dynunet_bundle.preprocessing.resample import ResampleToSpacingd

CLASSES = LabelScheme(["background", "edema", "core"])
REGIONS = LabelScheme(
    CLASSES.names, regions={"whole": [1, 2], "core": [2]}, regions_class_order=[1, 2]
)
AFFINES = {
    "plain": np.diag([1.0, 1.2, 1.6, 1]),
    "flipped": np.diag([-1.0, 1.2, -1.6, 1]),
    "permuted": np.array([[0, 0, 1.6, 5], [1.0, 0, 0, -3], [0, -1.2, 0, 9], [0, 0, 0, 1]]),
    "thick": np.diag([0.5, 0.5, 4.0, 1]),
    "oblique": np.array(
        [[0.9, -0.4, 0.1, 3], [0.4, 1.0, 0.2, 1], [-0.2, 0.1, 1.5, 2], [0, 0, 0, 1]]
    ),
}


def preprocessing(spacing=(1.3, 1.1, 0.9)):
    keys = "image"
    return Compose(
        [
            LoadImaged(keys, reader=ImageFileReader, image_only=True),
            EnsureChannelFirstd(keys),
            Orientationd(keys, axcodes="SAR", labels=None),
            CropForegroundd(keys, source_key="image", allow_smaller=True),
            ResampleToSpacingd(keys, spacing),
        ]
    )


@pytest.fixture(params=list(AFFINES))
def case(request, tmp_path):
    """A loaded case, and outputs of three classes on its preprocessed grid."""
    array = np.zeros((24, 20, 12), np.float32)
    array[3:20, 5:17, 2:11] = np.random.default_rng(0).uniform(1, 9, (17, 12, 9))
    path = save_nifti(tmp_path / "a.nii.gz", array, AFFINES[request.param])
    transform = preprocessing()
    data = transform({"image": str(path)})
    smooth = torch.nn.functional.avg_pool3d(torch.randn(3, *data["image"].shape[1:]), 3, 1, 1)
    return transform, {**data, "pred": smooth * 4}


def by_monai(transform, data, regions=False):
    steps = [
        Invertd("pred", transform, orig_keys="image", nearest_interp=False),
        AsDiscreted("pred", argmax=not regions),
        RegionsToClassesd("pred", REGIONS, 0.0) if regions else Compose(),
    ]
    # Invertd does not change a plain tensor
    return Compose(steps)({**data, "pred": MetaTensor(data["pred"])})["pred"]


@pytest.mark.parametrize("chunk", [None, 1])
def test_classes_are_those_of_all_logits_at_once(case, chunk, monkeypatch):
    transform, data = case
    if chunk:
        monkeypatch.setattr(planes, "CHUNK_BYTES", {"cpu": chunk})
    ours = RestoreClassesd("pred", transform, CLASSES)(data)["pred"]
    theirs = by_monai(transform, data)
    assert isinstance(ours, MetaTensor) and ours.dtype == torch.uint8
    assert ours.shape == theirs.shape == (1, 24, 20, 12)
    assert (ours.as_tensor() == theirs.as_tensor()).float().mean() > 0.9995
    np.testing.assert_allclose(ours.affine, data["image"].meta["original_affine"], atol=1e-6)
    assert len(ours.unique()) == 3


def test_regions_are_written_over_each_other(case):
    transform, data = case
    outputs = {**data, "pred": data["pred"][:2]}
    ours = RestoreClassesd("pred", transform, REGIONS)(outputs)["pred"]
    # MONAI pads logits with zeros, which are not above 0
    theirs = by_monai(transform, outputs, regions=True)
    assert (ours.as_tensor() == theirs.as_tensor()).float().mean() > 0.9995


def test_probabilities_lie_on_the_grid_of_the_file(case):
    transform, data = case
    restore = RestoreClassesd("pred", transform, CLASSES, probability_key="probability")
    restored = restore(data)
    shares = restored["probability"]
    assert shares.shape == (3, 24, 20, 12) and shares.dtype == torch.float16
    torch.testing.assert_close(
        shares.float().sum(0).as_tensor(), torch.ones(24, 20, 12), atol=2e-3, rtol=0
    )
    sure = shares.as_tensor().float().topk(2, 0).values.diff(dim=0)[0] < -2e-3
    same = shares.as_tensor().argmax(0) == restored["pred"][0].as_tensor()
    assert same[sure].all()
    outside = shares[:, 0, 0, 0].tolist()
    assert outside == [1, 0, 0]


def test_probabilities_of_regions_are_zero_outside(case):
    transform, data = case
    outputs = {**data, "pred": data["pred"][:2]}
    restore = RestoreClassesd("pred", transform, REGIONS, probability_key="probability")
    shares = restore(outputs)["probability"]
    assert shares[:, 0, 0, 0].tolist() == [0, 0] and shares.max() > 0.7


def test_a_preprocessing_that_does_not_end_with_resampling_is_refused(case):
    _, data = case
    with pytest.raises(ValueError, match="ResampleToSpacingd"):
        RestoreClassesd("pred", Compose([Activationsd("pred", softmax=True)]), CLASSES)(data)


def test_the_largest_array_is_a_chunk(monkeypatch, tmp_path):
    """25 classes at four times the resolution: logits of the file's grid would be 64 times as large as these."""
    array = np.ones((40, 40, 40), np.float32)
    transform = preprocessing((4.0, 4.0, 4.0))
    data = transform({"image": str(save_nifti(tmp_path / "a.nii.gz", array, np.eye(4)))})
    data["pred"] = torch.randn(25, *data["image"].shape[1:])
    sizes = []
    original = planes._in_plane
    monkeypatch.setattr(
        planes, "_in_plane", lambda *a: sizes.append((r := original(*a)).numel() * 4) or r
    )
    monkeypatch.setattr(planes, "CHUNK_BYTES", {"cpu": 2**19})
    mask = RestoreClassesd("pred", transform, LabelScheme(list(map(str, range(25)))))(data)["pred"]
    assert max(sizes) <= 2**19 and len(sizes) > 10
    assert mask.shape == (1, 40, 40, 40)
