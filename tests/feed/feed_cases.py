"""Shared by the tests of the feed: synthetic cases in a real store, sources and loaders on them, statistics."""

import json
import math
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import BUNDLE, save_nifti
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged

from benchmarks.center_crop import CenterCropLoader, CenterCropSource
from dynunet_bundle.feed.augmentation import Augmentation
from dynunet_bundle.feed.draws import Draw
from dynunet_bundle.feed.loader import DaliLoader
from dynunet_bundle.feed.source import Numbering, PatchSource, Sampling
from dynunet_bundle.preprocessing.store import PreparedDataset

SHIPPED = json.loads((BUNDLE / "configs" / "train.json").read_text())["augmentation"]
SEED_LIST = json.loads((BUNDLE / "configs" / "seed_augmentation.json").read_text())["augmentation"]
DECLARED = {**SHIPPED, "brightness_contrast": SEED_LIST["brightness_contrast"]}
"""Every kind there is, with the shipped settings."""
NAMES = ("image", "label", "kind", "start", "end", *(f.name for f in fields(Draw)), "matrix")
"""What a sample holds, in this order."""


def at_prob(
    prob: float, config: dict[str, Any] = DECLARED, *, but: Sequence[str] = ()
) -> dict[str, Any]:
    """A declaration with one probability for all kinds, optionally without some of them."""
    return {
        kind: {**settings, "prob": prob} for kind, settings in config.items() if kind not in but
    }


EVERYTHING = at_prob(0.5)


def coordinates(shape: Sequence[int], channels: int = 1, first: int = 1) -> np.ndarray:
    """``[C, D, H, W]`` float32 that numbers all voxels of all channels, starting at ``first``."""
    count = channels * math.prod(shape)
    return np.arange(first, first + count, dtype=np.float32).reshape(channels, *shape)


def prepare(
    folder: Path,
    images: Sequence[np.ndarray],
    labels: Sequence[np.ndarray] | None = None,
    dtype: str = "float32",
    previous: Sequence[np.ndarray] | None = None,
) -> PreparedDataset:
    """A real store of cases c0, c1, ...; by default a label is the first channel modulo 3.

    With masks of a previous stage it is the store of a cascade.
    """
    data = []
    keys = ["image", "label", *(["previous"] if previous is not None else [])]
    for index, image in enumerate(images):
        label = image[0] % 3 if labels is None else labels[index]
        paths = {key: folder / key / f"c{index}.nii" for key in keys}
        if previous is not None:
            save_nifti(paths["previous"], previous[index].astype(np.uint8))
        save_nifti(paths["image"], np.moveaxis(image, 0, -1) if len(image) > 1 else image[0])
        save_nifti(paths["label"], label.astype(np.uint8))
        data.append({key: str(path) for key, path in paths.items()})
    transform = Compose([LoadImaged(keys), EnsureChannelFirstd(keys)])
    return PreparedDataset(
        data,
        transform,
        str(folder / "store"),
        num_classes=3,
        dtype=dtype,
        cascade=previous is not None,
    )


def source_of(
    dataset: PreparedDataset,
    patch_size: Sequence[int],
    oversampling: float = 0.33,
    augmentation: dict[str, Any] | None = None,
    seed: int = 5,
    numbering: Numbering | None = None,
    center_crop: bool = False,
    **sampling: Any,
) -> PatchSource:
    declared = Augmentation.from_config(augmentation or {})
    how = Sampling(tuple(patch_size), declared, oversampling, seed, **sampling)
    source = CenterCropSource if center_crop else PatchSource
    return source(dataset.cases(), how, numbering or Numbering(batch_size=2))


def loader_of(*arguments: Any, center_crop: bool = False, **settings: Any) -> DaliLoader:
    """``DaliLoader``, or a variant that takes the middle of each volume."""
    return (CenterCropLoader if center_crop else DaliLoader)(*arguments, **settings)


def parts(sample: tuple[np.ndarray, ...]) -> SimpleNamespace:
    """The parts of a sample by name."""
    return SimpleNamespace(**dict(zip(NAMES, sample, strict=True)))


def content(sample: tuple[np.ndarray, ...]) -> list[Any]:
    return [(array.shape, array.dtype.str, array.tobytes()) for array in sample]


def place_of(source: PatchSource, number: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Matrix, first voxel and case index that the source draws for a sample."""
    place = source.place(number)
    return place.patch_map.matrix, np.array(place.start), place.index


WAYS = pytest.mark.parametrize("in_graph", [False, True], ids=["numpy", "graph"])
"""Backends: numpy and torch (used on a CPU) and the graph (used on a GPU, here run on the CPU)."""


def fed(loader: DaliLoader, in_graph: bool = False) -> list[tuple[np.ndarray, np.ndarray]]:
    """Image and label of each sample of one pass, by its number."""
    loader.in_graph = in_graph
    batches = list(loader)
    loader.close()
    for batch in batches:
        size = loader.sampling.patch_size
        assert batch["image"].shape[2:] == batch["label"].shape[2:] == size
        assert len(batch["image"]) == len(batch["label"]) == loader.batch_size
        assert (batch["image"].dtype, batch["label"].dtype) == (torch.float32, torch.uint8)
    return [
        (image.numpy(), label.numpy())
        for batch in batches
        for image, label in zip(batch["image"], batch["label"], strict=True)
    ]


def assert_share(hits: Any, probability: float) -> None:
    """4.5 standard deviations: a correct share passes, one that is off by 3 % of 10,000 draws fails."""
    hits = np.asarray(hits)
    allowed = 4.5 * math.sqrt(hits.size * probability * (1 - probability))
    assert abs(int(hits.sum()) - hits.size * probability) <= allowed
