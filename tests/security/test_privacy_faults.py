"""Whatever fails, and wherever: no message, log, file or page takes a name from the meta data of an image."""

import base64
import gzip
import io
import json
import re
import traceback
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import BUNDLE, TINY, save_nifti
from monai.bundle import ConfigWorkflow
from monai.data import MetaTensor
from PIL import Image

pytest.importorskip("highdicom")

from helpers import made_dicom
from helpers.predictions import prediction, threshold_weights

from dynunet_bundle.configs.workflow import BundleWorkflow
from dynunet_bundle.dataset.case_errors import apply_to_case
from dynunet_bundle.dataset.cases import name_of
from dynunet_bundle.dicom_input.names import short_name
from dynunet_bundle.dicom_output import seg
from dynunet_bundle.inference import probabilities, save_mask
from dynunet_bundle.report.page import write_report

NAME = "Zaphod7531"
"""In the names of folders, archives and files, and in every tag that may hold text."""

NUMBERS = "75317531"
"""In every UID."""

CANARIES = (NAME.lower(), NUMBERS, "zaphod")
KINDS = ("raises", "not_finite", "too_flat", "too_large")
TAGS = (
    *("PatientName", "PatientID", "StudyDescription", "SeriesDescription", "InstitutionName"),
    *("ImageComments", "AccessionNumber", "ReferringPhysicianName", "ProtocolName", "StudyID"),
)
NUM_BEFORE, NUM_AFTER = 8, 8
"""Transforms of the preprocessing and the postprocessing of inference.json."""


class InjectedFault:
    """A transform that spoils the image of a case, each time in the next of some ways.

    Args:
        kinds: what it does: raise an error that says all that the image knows, or make values NaN, the image smaller,
            or its voxels far too large.
    """

    def __init__(self, *kinds: str) -> None:
        self.kinds = list(kinds)

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        kind = self.kinds.pop(0)
        self.kinds.append(kind)
        spoilt = dict(data)
        key = "pred" if "pred" in spoilt else "image"
        image = spoilt[key]
        if kind == "raises" or not isinstance(image, MetaTensor):
            raise RuntimeError(f"{image if isinstance(image, str) else vars(image)} {data}")
        if kind == "not_finite":
            spoilt[key] = image.float() * float("nan")
        elif kind == "too_flat":
            spoilt[key] = image[..., :1]
        else:
            image = image.clone()
            image.affine = image.affine @ torch.diag(torch.tensor([1e4, 1e4, 1e4, 1.0])).double()
            spoilt[key] = image
        return spoilt


def inject(workflow: ConfigWorkflow, composed: str, place: int, *kinds: str) -> None:
    """Put a fault behind a transform of a config, by its place."""
    whole = workflow.parser.get_parsed_content(composed)
    first, last = whole.transforms[: place + 1], whole.transforms[place + 1 :]
    whole.transforms = (*first, InjectedFault(*kinds), *last)


def uid(number: int, what: int) -> str:
    return f"1.2.826.0.{what}.{NUMBERS}.{number}"


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of four studies of a series each, in which everything names the patient."""
    folder = tmp_path_factory.mktemp("input") / f"{NAME}^1970"
    tags = dict.fromkeys(TAGS, NAME) | {"PatientName": f"{NAME}^Jane"}
    for number, _ in enumerate(KINDS):
        array = np.random.default_rng(number).integers(1, 20, (12, 10, 6)).astype(np.int16)
        array[3:9, 3:8, 1:5] = 60
        made_dicom.make_series(
            folder / f"study {NAME} {number}",
            array,
            made_dicom.straight(),
            series_uid=uid(number, 1),
            study_uid=uid(number, 2),
            tags=tags,
        )
    return folder


def found_in(content: bytes) -> list[str]:
    return [canary for canary in CANARIES if canary.encode() in content.lower()]


def leaks(folder: Path) -> list[str]:
    """Files whose names or content hold a canary; objects for a PACS are the patient's, and left out."""
    found = []
    for path in (path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        parts = [str(path.relative_to(folder)).encode()]
        if path.suffix != ".dcm":
            parts += [gzip.decompress(content) if path.suffix == ".gz" else content]
        for picture in re.findall(rb"data:image/png;base64,([A-Za-z0-9+/=]+)", content):
            parts.append(str(Image.open(io.BytesIO(base64.b64decode(picture))).info).encode())
        found += [path.name for part in parts if found_in(part)]
    return found


@pytest.fixture(name="said")
def all_that_is_said(capfd: pytest.CaptureFixture[str], log: Any) -> Callable[..., str]:
    """``said(workflow)``: what a run prints, logs and raises."""

    def run(work: Callable[[], Any]) -> str:
        log.clear()
        try:
            work()
        except Exception as error:
            text = "".join(traceback.format_exception(error))
        else:
            text = ""
        return text + "".join(capfd.readouterr()) + log.text

    return run


@pytest.fixture
def predicted(studies: Path, tmp_path: Path) -> Callable[..., ConfigWorkflow]:
    """``predicted()``: inference.json on all studies, ``predicted(1)`` on one."""
    weights = threshold_weights(tmp_path / "model.pt")

    def load(number: int | None = None, **overrides: Any) -> ConfigWorkflow:
        source = studies if number is None else studies / f"study {NAME} {number}"
        return prediction(
            source,
            tmp_path / "out",
            weights,
            patch_size=[8, 8, 8],
            spacing=[2.5, 1.1, 0.8],
            probabilities_dir=str(tmp_path / "out" / "probabilities"),
            dicom_objects=["seg", "fractional", "rtstruct", "report"],
            **overrides,
        )

    return load


def report(workflow: ConfigWorkflow, out: Path) -> None:
    cases = workflow.parser.get_parsed_content("cases")
    images = {name_of(case): case["image"] for case in cases}
    run = json.loads((out / "run.json").read_text())
    write_report(out / "report.html", out, images=images, run=run)


def places() -> Iterator[Any]:
    for place in range(-1, NUM_BEFORE):
        yield pytest.param("preprocessing", place, id=f"before-{place}")
    for place in range(-1, NUM_AFTER):
        yield pytest.param("postprocessing", place, id=f"after-{place}")


def test_the_config_has_as_many_transforms_as_are_tested(predicted) -> None:
    workflow = predicted()
    for composed, number in (("preprocessing", NUM_BEFORE), ("postprocessing", NUM_AFTER)):
        assert len(workflow.parser.get_parsed_content(composed).transforms) == number


@pytest.mark.parametrize(("composed", "place"), places())
def test_a_fault_behind_each_transform_of_a_prediction(
    predicted, said, tmp_path, composed, place
) -> None:
    workflow = predicted()
    inject(workflow, composed, place, *KINDS)
    out = tmp_path / "out"
    text = said(workflow.run) + said(lambda: report(workflow, out))
    cases = json.loads((out / "run.json").read_text())["cases"]
    # a fault that has to do with the output folder ends the run
    assert set(cases) <= {short_name(uid(number, 1)) for number, _ in enumerate(KINDS)}
    failed = [case["error"] for case in cases.values() if case["status"] == "failed"]
    assert any("RuntimeError in test_privacy_faults.py, line " in error for error in failed)
    assert found_in(text.encode()) == [], text
    assert leaks(out) == [] and (out / "report.html").is_file()


@pytest.mark.parametrize(("composed", "place"), [("preprocessing", 3), ("postprocessing", 2)])
def test_a_fault_on_the_only_case(predicted, said, tmp_path, composed, place) -> None:
    for kind in KINDS:
        workflow = predicted(1)
        inject(workflow, composed, place, kind)
        text = said(workflow.run)
        assert found_in(text.encode()) == [], text
    assert leaks(tmp_path / "out") == []


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (save_mask, "_packed"),
        (save_mask, "atomic_write"),
        (probabilities, "atomic_write"),
        (probabilities, "write_json"),
        (seg, "write_object"),
    ],
)
def test_a_fault_in_each_writer(predicted, said, tmp_path, monkeypatch, module, name) -> None:
    def fail(*given: Any, **_: Any) -> Any:
        raise RuntimeError(f"{given} {NAME} {NUMBERS}")

    monkeypatch.setattr(module, name, fail)
    workflow = predicted()
    text = said(workflow.run) + said(lambda: report(workflow, tmp_path / "out"))
    assert "RuntimeError in test_privacy_faults.py" in text
    assert found_in(text.encode()) == [], text
    assert leaks(tmp_path / "out") == []


def test_a_fault_on_an_archive(studies, predicted, said, tmp_path) -> None:
    archive = tmp_path / f"{NAME}.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in studies.rglob("*.dcm"):
            file.write(path, f"{NAME}/{path.relative_to(studies)}")
    for composed, place in (("preprocessing", -1), ("preprocessing", 0), ("postprocessing", 6)):
        workflow = predicted(input=str(archive))
        inject(workflow, composed, place, "raises")
        text = said(workflow.run)
        assert "RuntimeError in test_" in text and found_in(text.encode()) == [], text
    assert leaks(tmp_path / "out") == []


def test_series_of_a_list_have_names_that_name_nobody(studies, predicted, said, tmp_path) -> None:
    folders = [str(folder) for folder in sorted(studies.iterdir())]
    (tmp_path / "list.json").write_text(json.dumps(folders))
    workflow = predicted(input=str(tmp_path / "list.json"))
    inject(workflow, "preprocessing", 4, "raises")
    text = said(workflow.run)
    assert short_name(uid(0, 1)) in text and found_in(text.encode()) == [], text
    assert leaks(tmp_path / "out") == []


def test_a_series_that_is_gone_is_told_without_its_place(studies, predicted, said) -> None:
    workflow = predicted()
    cases = workflow.parser.get_parsed_content("cases")
    for case in cases:
        # a key of another case's place: as if the folder had been moved away meanwhile
        case["image"] = case["image"].replace("1970", "1971")
    text = said(workflow.run)
    assert "does not exist" in text and found_in(text.encode()) == [], text


# --- evaluation and training


@pytest.fixture
def labelled(studies: Path, tmp_path: Path) -> list[dict[str, str]]:
    """The first study with a label, as MONAI Label passes a case: without a name."""
    label = np.zeros((12, 10, 6), np.uint8)
    label[3:9, 3:8, 1:5] = 1
    affine = made_dicom.straight()
    path = save_nifti(tmp_path / "labels" / "label.nii.gz", label, affine)
    folder = studies / f"study {NAME} 0"
    return [{"image": f"{folder}::{uid(0, 1)}", "label": str(path)}]


@pytest.mark.parametrize("place", range(-1, NUM_BEFORE))
def test_a_fault_behind_each_transform_of_a_preparation(
    train_workflow, labelled, said, tmp_path, place
) -> None:
    for kind in KINDS:
        workflow = train_workflow(spacing=[2.5, 1.1, 0.8])
        inject(workflow, "preprocessing", place, kind)
        preprocessing = workflow.parser.get_parsed_content("preprocessing")
        text = said(lambda transform=preprocessing: apply_to_case(labelled[0], transform))
        assert "RuntimeError in test_" in text or kind != "raises"
        assert found_in(text.encode()) == [], text


def test_a_store_takes_no_series_and_says_so_without_its_place(
    train_workflow, labelled, said, tmp_path
) -> None:
    workflow = train_workflow(**{"train#dataset#data": labelled})
    text = said(workflow.parser.get_parsed_content("train#dataset").cases)
    assert f"case {short_name(uid(0, 1))}: its image is a DICOM series" in text
    assert found_in(text.encode()) == [], text
    assert list((tmp_path / "prepared").iterdir()) == []


@pytest.mark.parametrize("composed", ["validate#preprocessing", "validate#postprocessing"])
def test_a_fault_behind_each_transform_of_an_evaluation(labelled, said, tmp_path, composed) -> None:
    network = {"_target_": "torch.nn.Conv3d", "in_channels": 1, "out_channels": 3, "kernel_size": 1}
    settings = {
        **TINY,
        "validate#dataset#data": labelled,
        "device": "cpu",
        "bundle_root": str(BUNDLE),
        "output_dir": str(tmp_path / "run"),
        "network_def": network,
        "spacing": [2.5, 1.1, 0.8],
        "weights_file": str(threshold_weights(tmp_path / "model.pt")),
        "masks_dir": str(tmp_path / "run" / "masks"),
        "probabilities_dir": str(tmp_path / "run" / "probabilities"),
    }

    def evaluation() -> ConfigWorkflow:
        files = [str(BUNDLE / "configs" / name) for name in ("train.json", "evaluate.json")]
        workflow = BundleWorkflow(config_file=files, workflow_type="train", **settings)
        workflow.initialize()
        return workflow

    number = len(evaluation().parser.get_parsed_content(composed).transforms)
    assert number > 1
    for place in range(number):
        workflow = evaluation()
        inject(workflow, composed, place, "raises")
        text = said(workflow.run)
        assert f"case {short_name(uid(0, 1))}: InjectedFault failed (RuntimeError in" in text
        assert found_in(text.encode()) == [], text
    assert leaks(tmp_path / "run") == []
    # without a fault it is scored, under the same name
    evaluation().run()
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert list(scores["cases"]) == [short_name(uid(0, 1))]
    assert leaks(tmp_path / "run") == []
