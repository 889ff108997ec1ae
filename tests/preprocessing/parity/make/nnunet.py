"""One data set in nnU-Net's raw layout, and nnU-Net's own results for it."""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from made import Spacing
from nibabel.orientations import io_orientation, ornt2axcodes


class NnunetDataset:
    """A data set converted for nnU-Net.

    Args:
        msd: folder in MSD layout.
        number: id for nnU-Net, below 1000.
    """

    def __init__(self, msd: Path, number: int) -> None:
        content = json.loads((msd / "dataset.json").read_text())
        self.name = f"Dataset{number:03d}_{msd.name}"
        self.channels = [content["modality"][key] for key in sorted(content["modality"], key=int)]
        self.labels = [content["labels"][key] for key in sorted(content["labels"], key=int)]
        self.raw = Path(os.environ["nnUNet_raw"]) / self.name
        self.preprocessed = Path(os.environ["nnUNet_preprocessed"]) / self.name
        self.json = {
            "channel_names": {str(index): name for index, name in enumerate(self.channels)},
            "labels": {name: value for value, name in enumerate(self.labels)},
            "numTraining": len(content["training"]),
            "file_ending": ".nii.gz",
            "overwrite_image_reader_writer": "SimpleITKIO",
        }
        self._convert(msd, [(case["image"], case["label"]) for case in content["training"]])

    def _convert(self, msd: Path, cases: Sequence[tuple[str, str]]) -> None:
        from nnunetv2.dataset_conversion.convert_MSD_dataset import (
            split_4d_nifti,
        )

        for part in ("imagesTr", "labelsTr"):
            (self.raw / part).mkdir(parents=True)
        (self.raw / "dataset.json").write_text(json.dumps(self.json))
        for image, label in cases:
            split_4d_nifti(str(msd / image), str(self.raw / "imagesTr"))
            shutil.copy(msd / label, self.raw / "labelsTr" / Path(image).name)

    def fingerprint(self) -> dict[str, Any]:
        """nnU-Net's fingerprint of the cases."""
        from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import (
            DatasetFingerprintExtractor,
        )

        DatasetFingerprintExtractor(self.name, num_processes=1).run(overwrite_existing=True)
        return json.loads((self.preprocessed / "dataset_fingerprint.json").read_text())

    def plans(self, variant: str, target: Spacing | None) -> dict[str, Any]:
        """nnU-Net's plans, for its own spacing or for ``target`` (x, y, z)."""
        from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import (
            ExperimentPlanner,
        )

        spacing = None if target is None else list(target[::-1])
        ExperimentPlanner(
            self.name, plans_name=variant, overwrite_target_spacing=spacing
        ).plan_experiment()
        return json.loads((self.preprocessed / f"{variant}.json").read_text())

    def preprocess(
        self, case: str, plans: dict[str, Any], configuration: str
    ) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
        """Image ``[C, D, H, W]``, label ``[D, H, W]`` and geometry of one case, by nnU-Net's own preprocessor."""
        from nnunetv2.preprocessing.preprocessors.default_preprocessor import (
            DefaultPreprocessor,
        )
        from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

        manager = PlansManager(plans)
        images = sorted(str(path) for path in (self.raw / "imagesTr").glob(f"{case}_????.nii.gz"))
        image, label, properties = DefaultPreprocessor(verbose=False).run_case(
            images,
            str(self.raw / "labelsTr" / f"{case}.nii.gz"),
            manager,
            manager.get_configuration(configuration),
            self.json,
        )
        return image, label[0], properties


def array_orientation(direction: Sequence[float], transpose: Sequence[int]) -> str:
    """Orientation of nnU-Net's array, e.g. ``SPL``, from SimpleITK's direction matrix (LPS)."""
    to_ras = np.diag([-1.0, -1.0, 1.0]) @ np.reshape(direction, (3, 3))
    affine = np.eye(4)
    affine[:3, :3] = to_ras
    # SimpleITK gives arrays as (z, y, x)
    codes = ornt2axcodes(io_orientation(affine))[::-1]
    return "".join(codes[axis] for axis in transpose)
