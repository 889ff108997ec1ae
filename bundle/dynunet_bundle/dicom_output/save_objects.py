"""DICOM objects of the mask of a DICOM series: segmentation, structure set, report.

Stored on disk: ``KINDS``, in file names, and ``objects``, in run.json.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.transforms import MapTransform

from dynunet_bundle.dataset.cases import name_of, source_of
from dynunet_bundle.dicom_input.names import is_series_name
from dynunet_bundle.dicom_output.object import Algorithm
from dynunet_bundle.errors import ConfigError, ObjectError
from dynunet_bundle.files import sha256_of
from dynunet_bundle.inference.save_mask import REFUSED, SAVED
from dynunet_bundle.labels.scheme import LabelScheme
from dynunet_bundle.networks.weights import weight_files

KINDS = ("seg", "fractional", "rtstruct", "report")
REPORT_NEEDS_SEG = "it reads the segmentation."
VERSION_DIGITS = 12  # of the weights' SHA-256, the version of the algorithm


class SaveDicomObjectsd(MapTransform):
    """Write DICOM objects for each mask of a DICOM series: ``postprocessing`` of inference.json.

    Images that are not DICOM, and images in memory, are passed through. ``CASE.seg.dcm`` is a binary segmentation,
    ``CASE.fractional.dcm`` a segmentation of probabilities, ``CASE.rtstruct.dcm`` a structure set and
    ``CASE.report.dcm`` a report with the volumes of the segmentation. An empty mask gives no objects. An object that
    the headers do not allow is left out, with its reason under ``REFUSED`` of the saved facts. MONAI cannot write
    DICOM.

    Args:
        keys: keys of the masks, label values ``[1, X, Y, Z]``, MetaTensors on the grid of the series.
        output_dir: folder of the objects.
        objects: kinds to write, from ``KINDS``; ``report`` needs ``seg``, ``fractional`` needs probabilities.
        labels: the plan's labels.
        task_name: helps to find the codes of labels, see ``codes_of_labels``.
        weights_file: the weights that made the masks; their hash becomes the version of the algorithm.
        label_codes: codes by label name, which override those of ``dicom_output/codes.json``.
        probability_key: key of the probabilities ``[C, X, Y, Z]``.
        allow_missing_keys: as in MONAI.

    Raises:
        ConfigError: if a kind is unknown, a report has no segmentation, or probabilities are missing.
        BundleError: if highdicom is missing.
        OutputError: if an object cannot be written.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str,
        objects: Sequence[str],
        labels: LabelScheme,
        task_name: str = "",
        weights_file: str | Sequence[str] = "",
        label_codes: Mapping[str, Any] | None = None,
        probability_key: str = "probability",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        unknown = [kind for kind in objects if kind not in KINDS]
        if unknown or ("report" in objects and "seg" not in objects):
            raise ConfigError(
                f"dicom_objects is {list(objects)}. Choose from {', '.join(KINDS)}; report needs seg."
            )
        self.output_dir = Path(output_dir)
        self.objects = list(objects)
        self.labels = dict(zip(labels.names, labels.values, strict=True))
        self.task_name = task_name
        self.weights = weight_files(weights_file)
        self.label_codes = label_codes
        self.probability_key = probability_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the objects of one case and add their names to its list of saved files."""
        written = dict(data)
        for key in self.key_iterator(written):
            mask = written[key]
            source = source_of(mask)
            if self.objects and source is not None and is_series_name(source):
                case = name_of({**written, "image": mask})
                array = _whole_numbers(np.asarray(mask[0].as_tensor().cpu()))
                saved = self._write(array, source, case, written.get(self.probability_key))
                written[SAVED] = {**written.get(SAVED, {}), **saved}
        return written

    def _write(self, mask: np.ndarray, source: str, case: str, probability: Any) -> dict[str, Any]:
        """Names of the written files, and the reason for each kind that is refused."""
        # pydicom and highdicom are optional dependencies
        from dynunet_bundle.dicom_input.series import load_series
        from dynunet_bundle.dicom_output.rtstruct import write_rtstruct
        from dynunet_bundle.dicom_output.seg import write_probabilities, write_seg
        from dynunet_bundle.dicom_output.structured_report import write_measurements

        # the mask was predicted from the pixels; an object needs the grid and the headers
        series = load_series(source, with_pixels=False)
        algorithm = Algorithm(self.task_name or "dynunet-bundle", self._version)
        settings: dict[str, Any] = {
            "algorithm": algorithm,
            "task_name": self.task_name,
            "codes": self.label_codes,
        }
        writers: dict[str, Callable[[Path], Path | None]] = {
            "seg": lambda path: write_seg(mask, series, self.labels, path, **settings),
            "rtstruct": lambda path: write_rtstruct(mask, series, self.labels, path, **settings),
            "fractional": lambda path: write_probabilities(
                self._shares(probability), series, self.labels, path, **settings
            ),
            "report": lambda path: write_measurements(
                paths["seg"], series, path, algorithm=algorithm
            ),
        }
        paths = {kind: self.output_dir / f"{case}.{kind}.dcm" for kind in KINDS}
        files: list[str] = []
        refused: dict[str, str] = {}
        # a report reads the segmentation
        for kind in sorted(self.objects, key="report".__eq__):
            try:
                if kind == "report" and paths["seg"].name not in files:
                    paths[kind].unlink(missing_ok=True)
                    refused |= {kind: REPORT_NEEDS_SEG} if "seg" in refused else {}
                elif writers[kind](paths[kind]) is not None:
                    files.append(paths[kind].name)
            except ObjectError as error:
                paths[kind].unlink(missing_ok=True)
                refused[kind] = str(error)
        return {"objects": files, REFUSED: refused}

    def _shares(self, probability: Any) -> np.ndarray:
        if probability is None:
            raise ConfigError('"fractional" needs probabilities. Set probabilities_dir.')
        return np.asarray(probability.as_tensor())

    @cached_property
    def _version(self) -> str:
        found = [sha256_of(path)[:VERSION_DIGITS] for path in self.weights if path.is_file()]
        return "+".join(found) or "unknown"


def _whole_numbers(mask: np.ndarray) -> np.ndarray:
    """A mask in an integer type; in its own, if it has one, since masks of CTs are large."""
    return mask if mask.dtype.kind in "ui" else mask.astype(np.int32)
