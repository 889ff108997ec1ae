"""Synthetic data sets: four adjacent classes in noise; flipped, oblique, anisotropic or partly empty."""

import json
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

Spacing = tuple[float, float, float]


@dataclass(frozen=True)
class Made:
    """A synthetic data set of one case.

    Attributes:
        name: name of the data set.
        spacing: mm along right, anterior, superior.
        stored: orientation in which the file stores it.
        targets: as in ``Real``, along the stored axes.
        zero: where the image is zero: ``nowhere``; in a ``corner`` or all ``around`` its middle, and in a closed hole.
        channels: names of the channels.
        degrees: rotation about two axes.
        label_radius: radius of the label; 0.8 is where the image is zero all around the middle.
        scale: factor of the intensities.
    """

    name: str
    spacing: Spacing
    stored: str
    targets: tuple[Spacing, ...]
    zero: str = "nowhere"
    channels: tuple[str, ...] = ("MRI",)
    degrees: float = 0
    label_radius: float = 0.75
    scale: int = 1


THICK = (0.5, 0.5, 3.0)
MADE = (
    Made("isotropic", (1.0, 1.0, 1.0), "RAS", ((0.7, 0.9, 1.3), (2.0, 2.0, 2.0))),
    Made("flipped", (1.0, 1.0, 1.0), "LPI", ((0.7, 0.9, 1.3), (2.0, 2.0, 2.0))),
    # a coarse axis: ratios of 3:2, 2:3 and 1:2 put centres exactly between slices
    Made("thick", THICK, "RAS", ((0.4, 0.4, 2.0), (0.4, 0.6, 4.5), (0.6, 0.5, 6.0))),
    Made("thick_flipped", THICK, "LAI", ((0.4, 0.4, 2.0), (0.4, 0.6, 4.5), (0.6, 0.5, 6.0))),
    Made("thick_sideways", (4.0, 0.7, 0.7), "RAS", ((3.1, 0.6, 0.8),), degrees=9),
    Made("thick_target", (1.0, 1.0, 1.2), "PSR", ((0.8, 4.0, 0.9),)),
    Made("two_coarse_axes", (0.4, 1.5, 1.5), "LPS", ((0.53, 1.21, 1.32),)),
    # the second target gives sizes of 27.5, 32.5 and 28.5 voxels before rounding
    Made(
        "oblique",
        (0.8, 1.1, 1.9),
        "PIL",
        ((1.0, 1.3, 0.9), (0.88, 1.2, 0.64)),
        degrees=-23,
        scale=4000,
    ),
    Made("holes", (1.0, 1.2, 1.5), "LPS", ((0.8, 0.9, 1.1),), zero="corner"),
    Made(
        "brain",
        (1.0, 1.0, 1.2),
        "LAS",
        ((0.8, 1.3, 0.9),),
        zero="around",
        channels=("FLAIR", "T1w"),
        label_radius=0.5,
    ),
    Made("brain_label_to_edge", (1.0, 1.0, 1.2), "RAS", ((0.8, 1.3, 0.9),), zero="around"),
    Made(
        "brain_label_beyond_edge",
        (1.0, 1.0, 1.2),
        "RAS",
        ((0.8, 1.3, 0.9),),
        zero="around",
        label_radius=0.95,
    ),
    Made("ct", (0.9, 0.9, 2.0), "LPS", ((0.8, 1.0, 1.6),), channels=("CT",)),
    Made(
        "ct_and_mr",
        (0.9, 0.9, 2.0),
        "RPS",
        ((0.8, 1.0, 1.6),),
        zero="around",
        channels=("CT", "MRI"),
        label_radius=0.5,
    ),
)
LABEL_NAMES = ("background", "one", "two", "three", "four")
MADE_SHAPE = (22, 26, 18)


def make_volume(made: Made) -> tuple[nib.Nifti1Image, nib.Nifti1Image]:
    """Image and label of a synthetic set as stored: four adjacent classes in noise."""
    random = np.random.RandomState(len(made.name))
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, size) for size in MADE_SHAPE], indexing="ij"))
    seeds = random.uniform(-0.5, 0.5, (4, 3))
    classes = np.linalg.norm(grid - seeds[:, :, None, None, None], axis=1).argmin(axis=0) + 1
    radius = np.linalg.norm(grid - np.reshape([0.1, -0.1, 0.05], (3, 1, 1, 1)), axis=0)
    outside = np.zeros(MADE_SHAPE, bool)
    if made.zero == "corner":
        outside = grid.sum(axis=0) > 0.6
    if made.zero == "around":
        outside = radius > 0.8
    label = np.where(radius < made.label_radius, classes, 0)
    if made.zero == "corner":
        label[outside] = 0
    zero = outside.copy()
    if outside.any():
        zero[8:11, 9:13, 6:9] = True  # a closed hole, which counts as inside
    channels = []
    for name in made.channels:
        tissue = 60 * label + 40 * np.sin(3 * grid[0] + 2 * grid[1] * grid[2])
        image = tissue + random.normal(0, 15, MADE_SHAPE)
        # tissue of an MR is above zero everywhere
        image = 4 * image - 500 if name == "CT" else np.maximum(image + 200, 1)
        channels.append(np.where(zero, 0, np.rint(image)) * made.scale)
    volume = np.stack(channels, axis=-1) if len(channels) > 1 else channels[0]
    kind = np.int16 if made.scale == 1 else np.int32
    affine = _affine(made)
    turn = ornt_transform(io_orientation(affine), axcodes2ornt(made.stored))
    return tuple(
        nib.Nifti1Image(array.astype(dtype), affine).as_reoriented(turn)
        for array, dtype in ((volume, kind), (label, np.uint8))
    )


def _affine(made: Made) -> np.ndarray:
    angle = np.deg2rad(made.degrees)
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    tilt = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ tilt @ np.diag(made.spacing)
    affine[:3, 3] = [-30, 12, 400]
    return affine


def write_made(made: Made, folder: Path) -> dict[str, np.ndarray]:
    """Write a synthetic set in MSD layout; returns its input for storage."""
    image, label = make_volume(made)
    for part, volume in (("imagesTr", image), ("labelsTr", label)):
        (folder / part).mkdir(parents=True)
        nib.save(volume, folder / part / "case.nii.gz")
    content = {
        "modality": {str(index): name for index, name in enumerate(made.channels)},
        "labels": {str(value): name for value, name in enumerate(LABEL_NAMES)},
        "training": [{"image": "imagesTr/case.nii.gz", "label": "labelsTr/case.nii.gz"}],
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    return {
        "made.image": np.asanyarray(image.dataobj),
        "made.label": np.asanyarray(label.dataobj),
        "made.affine": image.affine,
    }
