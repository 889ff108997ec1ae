"""One contender of the feed benchmark, as a program that runs in that contender's environment.

    python -P feed_contender.py JOB.json

It imports this project only if the contender is ours. The job defines the contender, the stored cases, patch and batch.
The figures of the timed batches after a warm-up, in seconds for 1,000 samples, go to the file named in the job.
"""

import importlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SAMPLES = 1000
NextBatch = Callable[[], Any]


def ours(job: dict[str, Any]) -> NextBatch:
    """The feed of this project, with all or part of the augmentation in train.json."""
    loader = importlib.import_module("dynunet_bundle.feed.loader")
    store = importlib.import_module("dynunet_bundle.preprocessing.store")
    cases = [
        store.PreparedCase(
            stem,
            *(f"{stem}.{array}.npy" for array in ("image", "label", "positions")),
            tuple(job["shape"]),
            (1, 2),
        )
        for stem in job["cases"]
    ]
    content = {
        "dtype": np.dtype(np.float32),
        "cases": lambda self: cases,
        "__len__": lambda self: len(cases),
    }
    dataset = type("Stored", (), content)()
    feed = loader.DaliLoader(
        dataset, job["patch"], job["batch"], sys.maxsize, job["augmentation"], num_threads=1
    )
    return iter(feed).__next__


def batchgeneratorsv2(job: dict[str, Any]) -> NextBatch:
    """nnU-Net's own training transforms on memory maps, cropped as in its data loader."""
    torch = importlib.import_module("torch")
    boxes = importlib.import_module("acvl_utils.cropping_and_padding.bounding_boxes")
    trainer = importlib.import_module("nnunetv2.training.nnUNetTrainer.nnUNetTrainer").nnUNetTrainer
    initial = importlib.import_module(
        "nnunetv2.training.data_augmentation.compute_initial_patch_size"
    )
    torch.set_num_threads(1)
    patch = job["patch"]
    dims, angle = len(patch), np.deg2rad(30 if len(patch) == 3 else 180)
    limits = (-angle, angle)
    transforms = trainer.get_training_transforms(
        tuple(patch), limits, None, tuple(range(dims)), False
    )
    zero = (0, 0)
    turns = (limits, limits, limits) if dims == 3 else (limits, zero, zero)
    region = initial.get_patch_size(patch, *turns, (0.85, 1.25))
    size = np.array([1] * (3 - dims) + region.tolist())
    maps = _memory_maps(job)
    rng = np.random.default_rng(0)

    def next_batch() -> Any:
        batch = []
        for _ in range(job["batch"]):
            image, label, positions = maps[rng.integers(len(maps))]
            start = _start(np.array(image.shape[1:]), size, positions, job["oversampling"], rng)
            box = [[int(low), int(low + length)] for low, length in zip(start, size, strict=True)]
            pair = {
                # copied, as in nnU-Net, whose transforms write in place
                "image": torch.from_numpy(np.array(boxes.crop_and_pad_nd(image, box, 0))),
                "segmentation": torch.from_numpy(
                    boxes.crop_and_pad_nd(label, box, 0).astype(np.int16)
                ),
            }
            if dims == 2:
                pair = {name: tensor[:, 0] for name, tensor in pair.items()}
            batch.append(transforms(**pair))
        return [torch.stack([one[name] for one in batch]) for name in ("image", "segmentation")]

    return next_batch


def monai(job: dict[str, Any]) -> NextBatch:
    """MONAI's dictionary transforms on volumes in memory, as in its CacheDataset."""
    torch = importlib.import_module("torch")
    transforms = importlib.import_module("monai.transforms")
    data = importlib.import_module("monai.data")
    torch.set_num_threads(1)
    volumes = [
        transforms.FgBgToIndicesd("label")(
            {"image": torch.from_numpy(np.array(image)), "label": torch.from_numpy(np.array(label))}
        )
        for image, label, _ in _memory_maps(job)
    ]
    augment = _monai_transforms(job).set_random_state(0)
    rng = np.random.default_rng(0)

    def next_batch() -> Any:
        chosen = rng.integers(len(volumes), size=job["batch"])
        return data.list_data_collate([augment(dict(volumes[index]))[0] for index in chosen])

    return next_batch


def _monai_transforms(job: dict[str, Any]) -> Any:
    """The same augmentation with MONAI's dictionary transforms."""
    transforms = importlib.import_module("monai.transforms")
    keys, patch = ("image", "label"), job["patch"]
    flat = len(patch) == 2
    size = [1, *patch] if flat else patch
    modes = ("bilinear", "nearest")
    axes = range(len(patch))
    turn = {f"range_{axis}": 0.52 for axis in "xyz"[: 1 if flat else 3]}
    sigma = {f"sigma_{axis}": (0.5, 1.0) for axis in "xyz"[: len(patch)]}
    squeeze = [transforms.SqueezeDimd(keys, dim=1)] if flat else []
    return transforms.Compose(
        [
            transforms.SpatialPadd(keys, size),
            transforms.RandCropByPosNegLabeld(
                keys,
                "label",
                size,
                pos=job["oversampling"],
                neg=1 - job["oversampling"],
                fg_indices_key="label_fg_indices",
                bg_indices_key="label_bg_indices",
            ),
            *squeeze,
            transforms.RandRotated(keys, **turn, prob=0.2, mode=modes, padding_mode="zeros"),
            transforms.RandZoomd(
                keys, prob=0.2, min_zoom=0.7, max_zoom=1.4, mode=("area", "nearest")
            ),
            transforms.RandGaussianNoised("image", prob=0.1, std=0.1),
            transforms.RandGaussianSmoothd("image", prob=0.2, **sigma),
            transforms.RandScaleIntensityd("image", 0.25, prob=0.15),
            transforms.RandScaleIntensityFixedMeand(
                "image", factors=0.25, preserve_range=True, prob=0.15
            ),
            transforms.RandSimulateLowResolutiond(
                "image",
                prob=0.25,
                upsample_mode="bilinear" if flat else "trilinear",
                zoom_range=(0.5, 1.0),
            ),
            transforms.RandAdjustContrastd(
                "image", prob=0.1, gamma=(0.7, 1.5), invert_image=True, retain_stats=True
            ),
            transforms.RandAdjustContrastd("image", prob=0.3, gamma=(0.7, 1.5), retain_stats=True),
            *[transforms.RandFlipd(keys, prob=0.5, spatial_axis=axis) for axis in axes],
        ]
    )


def _memory_maps(job: dict[str, Any]) -> list[tuple[np.ndarray, ...]]:
    arrays = ("image", "label", "positions")
    return [
        tuple(np.load(f"{stem}.{array}.npy", mmap_mode="r", allow_pickle=False) for array in arrays)
        for stem in job["cases"]
    ]


def _start(
    shape: np.ndarray,
    size: np.ndarray,
    positions: np.ndarray,
    oversampling: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """First voxel of the region, by nnU-Net's rule."""
    room = np.maximum(size - shape, 0)
    low, high = -(room // 2), shape + room // 2 + room % 2 - size
    if rng.random() < oversampling:
        voxel = positions[rng.integers(len(positions)), rng.integers(positions.shape[1])]
        return np.maximum(low, voxel.astype(int) - size // 2)
    return rng.integers(low, high, endpoint=True)


def main() -> None:
    """Do the job named on the command line."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    contenders = {"ours": ours, "batchgeneratorsv2": batchgeneratorsv2, "monai": monai}
    next_batch = contenders[job["contender"]](job)
    for _ in range(job["warm_up"]):
        next_batch()
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(job["num_batches"]):
        next_batch()
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    share = SAMPLES / (job["num_batches"] * job["batch"])
    figures = {
        "cpu_s": (time.process_time() - cpu) * share,
        "wall_s": (time.perf_counter() - wall) * share,
        "peak_mib": next(int(line.split()[1]) / 1024 for line in status if "VmHWM" in line),
    }
    Path(job["figures"]).write_text(json.dumps(figures), encoding="utf-8")


if __name__ == "__main__":
    main()
