"""Plans of the ten tasks of the Medical Segmentation Decathlon, from NVIDIA's nnU-Net example.

Source: ``data_preprocessing/configs.py`` of NVIDIA/DeepLearningExamples, TensorFlow2/Segmentation/nnUNet. Sizes in
voxels and spacings in mm, (z, y, x) for 3D and (y, x) for 2D; CT statistics in Hounsfield units.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """Patch and spacing of one task; CT statistics (lower, upper, mean, std); whether most of a volume is zero."""

    patch_3d: tuple[int, int, int]
    spacing_3d: tuple[float, float, float]
    patch_2d: tuple[int, int]
    spacing_2d: tuple[float, float]
    ct: tuple[float, float, float, float] | None = None
    mostly_empty: bool = False


BATCH_SIZE = {2: 64, 3: 2}
"""Patches (3D) or slices (2D) per step, by dimension, as in the seed's ``dynunet-bundle train``."""

PRESETS = {
    "Task01": Preset((128, 128, 128), (1.0, 1.0, 1.0), (192, 160), (1.0, 1.0), mostly_empty=True),
    "Task02": Preset((80, 192, 160), (1.37, 1.25, 1.25), (320, 256), (1.25, 1.25)),
    "Task03": Preset(
        (128, 128, 128),
        (1.0, 0.7676, 0.7676),
        (512, 512),
        (0.7676, 0.7676),
        (-17, 201, 99.4, 39.36),
    ),
    "Task04": Preset((40, 56, 40), (1.0, 1.0, 1.0), (56, 40), (1.0, 1.0)),
    "Task05": Preset((20, 320, 256), (3.6, 0.62, 0.62), (320, 320), (0.62, 0.62)),
    "Task06": Preset(
        (80, 192, 160), (1.24, 0.79, 0.79), (512, 512), (0.79, 0.79), (-1024, 325, -158.58, 324.7)
    ),
    "Task07": Preset(
        (40, 224, 224), (2.5, 0.8, 0.8), (512, 512), (0.8, 0.8), (-96, 215, 77.9, 75.4)
    ),
    "Task08": Preset(
        (64, 192, 192), (1.5, 0.8, 0.8), (512, 512), (0.8, 0.8), (-3, 243, 104.37, 52.62)
    ),
    "Task09": Preset(
        (64, 192, 160), (1.6, 0.79, 0.79), (512, 512), (0.79, 0.79), (-41, 176, 99.29, 39.47)
    ),
    "Task10": Preset(
        (56, 192, 160), (3.0, 0.78, 0.78), (512, 512), (0.78, 0.78), (-30, 165.82, 62.18, 32.65)
    ),
}


def preset_for(task_name: str) -> Preset | None:
    """The preset of a data set called ``TaskNN_...``, or None for any other name."""
    return PRESETS.get(task_name[:6]) if task_name[6:7] in ("", "_") else None
