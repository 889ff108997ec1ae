"""An application of MONAI Deploy: a DICOM series, our package or TorchScript file, a DICOM segmentation.

Run in an environment with the SDK: deploy_app.py MODEL SERIES_FOLDER OUTPUT_FOLDER. The mask that the operator sends is
saved beside the segmentation, as ``pred.npy`` ``[slices, rows, columns]``.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
from monai.deploy.conditions import CountCondition
from monai.deploy.core import AppContext, Application, Image, IOType, Operator, OperatorSpec
from monai.deploy.operators.dicom_data_loader_operator import DICOMDataLoaderOperator
from monai.deploy.operators.dicom_seg_writer_operator import (
    DICOMSegmentationWriterOperator,
    SegmentDescription,
)
from monai.deploy.operators.dicom_series_selector_operator import DICOMSeriesSelectorOperator
from monai.deploy.operators.dicom_series_to_volume_operator import DICOMSeriesToVolumeOperator
from monai.deploy.operators.monai_bundle_inference_operator import (
    IOMapping,
    MonaiBundleInferenceOperator,
)
from pydicom.sr.codedict import codes

MODEL, SERIES, OUTPUT = map(Path, sys.argv[1:4])
LABELS = sys.argv[4:]
"""Names of the segments, in the order of their label values."""


class SaveArray(Operator):
    """Save the mask for a comparison."""

    def setup(self, spec: OperatorSpec) -> None:
        spec.input("pred")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        np.save(OUTPUT / "pred.npy", op_input.receive("pred").asnumpy())


class SegmentationApp(Application):
    """Loader, selector, volume, our model, segmentation."""

    def compose(self) -> None:
        context: AppContext = Application.init_app_context([])
        loader = DICOMDataLoaderOperator(
            self, CountCondition(self, 1), input_folder=SERIES, name="loader"
        )
        selector = DICOMSeriesSelectorOperator(self, name="selector")
        to_volume = DICOMSeriesToVolumeOperator(self, name="to_volume")
        model = MonaiBundleInferenceOperator(
            self,
            input_mapping=[IOMapping("image", Image, IOType.IN_MEMORY)],
            output_mapping=[IOMapping("pred", Image, IOType.IN_MEMORY)],
            app_context=context,
            bundle_path=MODEL,
            name="model",
        )
        descriptions = [
            SegmentDescription(
                segment_label=label,
                segmented_property_category=codes.SCT.Organ,
                segmented_property_type=codes.SCT.Brain,
                algorithm_name="dynunet-bundle",
                algorithm_version="0.1.0",
            )
            for label in LABELS
        ]
        writer = DICOMSegmentationWriterOperator(
            self, segment_descriptions=descriptions, output_folder=OUTPUT, name="writer"
        )
        series = {("study_selected_series_list", "study_selected_series_list")}
        self.add_flow(loader, selector, {("dicom_study_list", "dicom_study_list")})
        self.add_flow(selector, to_volume, series)
        self.add_flow(selector, writer, series)
        self.add_flow(to_volume, model, {("image", "image")})
        self.add_flow(model, writer, {("pred", "seg_image")})
        self.add_flow(model, SaveArray(self, name="save"), {("pred", "pred")})


if __name__ == "__main__":
    OUTPUT.mkdir(parents=True, exist_ok=True)
    SegmentationApp().run()
