"""Files that would run code when they are unpickled, evaluated or extracted: nothing runs, and the error says so."""

import json
import os
import pickle
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import BUNDLE, TINY
from helpers.predictions import prediction, save_cases, threshold_weights
from monai.bundle import ConfigWorkflow

from dynunet_bundle.dataset.inputs import find_inputs
from dynunet_bundle.errors import BundleError, CaseError, DatasetError, WeightsError
from dynunet_bundle.files import sha256_of
from dynunet_bundle.inference.ensemble import EnsembleRequest, write_ensemble
from dynunet_bundle.survey.case_facts import CaseFacts
from dynunet_bundle.training.handlers.generations import load_generation
from dynunet_bundle.training.watching.status import read_status


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """The file that a payload would create; it has been seen to work."""
    path = tmp_path / "marker"
    pickle.loads(pickle.dumps(Payload(path)))  # noqa: S301 - that is the point
    assert path.exists()
    path.unlink()
    return path


def old_pickle(path: Path, payload: Payload) -> None:
    path.write_bytes(pickle.dumps({"weight": payload}))


def torch_zip(path: Path, payload: Payload) -> None:
    torch.save({"weight": torch.zeros(1), "more": payload}, path)


def old_torch(path: Path, payload: Payload) -> None:
    torch.save({"more": payload}, path, _use_new_zipfile_serialization=False)


def whole_network(path: Path, payload: Payload) -> None:
    network = torch.nn.Conv3d(1, 3, 1)
    network.payload = payload
    torch.save(network, path)


@pytest.mark.parametrize("make", [old_pickle, torch_zip, old_torch, whole_network])
@pytest.mark.parametrize("has_sidecar", [False, True])
def test_weights_run_nothing(tmp_path, marker, make, has_sidecar):
    save_cases(tmp_path / "in", "a")
    weights = tmp_path / "model.pt"
    make(weights, Payload(marker))
    if has_sidecar:
        weights.with_suffix(".json").write_text(json.dumps({"sha256": sha256_of(weights)}))
    with pytest.raises(WeightsError, match=r"model\.pt .*may run code") as caught:
        prediction(tmp_path / "in", tmp_path / "out", weights).run()
    # torch's own advice would be to load it all the same
    assert "weights_only" not in str(caught.value)
    assert not marker.exists()


def test_weights_that_were_replaced_are_not_read_at_all(tmp_path, marker, monkeypatch):
    save_cases(tmp_path / "in", "a")
    weights = threshold_weights(tmp_path / "model.pt")
    weights.with_suffix(".json").write_text(json.dumps({"sha256": sha256_of(weights)}))
    torch_zip(weights, Payload(marker))
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: pytest.fail("it was read"))
    with pytest.raises(WeightsError, match="SHA-256 differs"):
        prediction(tmp_path / "in", tmp_path / "out", weights).run()


def test_checkpoints_run_nothing(tmp_path, marker):
    for name in ("checkpoint_last.pt", "checkpoint_last.previous.pt"):
        torch_zip(tmp_path / name, Payload(marker))
    with pytest.raises(WeightsError, match="no state of the training can be read"):
        load_generation(tmp_path)
    (tmp_path / "status.json").write_text('{"state": "stopped"}')
    read_status(tmp_path, 0.0, tmp_path)
    assert not marker.exists()


def test_pretrained_weights_run_nothing(
    tmp_path, marker, train_workflow: Callable[..., ConfigWorkflow]
):
    torch_zip(tmp_path / "given.pt", Payload(marker))
    with pytest.raises(WeightsError, match="may run code"):
        train_workflow(pretrained=str(tmp_path / "given.pt"), **{"train#num_workers": 0}).run()
    assert not marker.exists()


# --- arrays


def pickled_array(path: Path, marker: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.array([Payload(marker)], dtype=object), allow_pickle=True)


def test_the_prepared_store_runs_nothing(
    tmp_path, marker, train_workflow: Callable[..., ConfigWorkflow]
):
    dataset = train_workflow().parser.get_parsed_content("train#dataset")
    case = dataset.cases()[0]
    whole = Path(case.image).read_bytes()
    for file in (case.image, case.label, case.positions):
        pickled_array(Path(file), marker)
    sidecar = Path(case.image.replace(".image.npy", ".json"))
    facts = json.loads(sidecar.read_text())
    for array in facts["bytes"]:
        facts["bytes"][array] = Path(getattr(case, array)).stat().st_size
    sidecar.write_text(json.dumps(facts))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        dataset[0]
    again = train_workflow().parser.get_parsed_content("train#dataset")
    again.cases()
    assert Path(case.image).read_bytes() == whole
    assert not marker.exists()


def test_probabilities_run_nothing(tmp_path, marker):
    save_cases(tmp_path / "in", "a")
    weights = threshold_weights(tmp_path / "model.pt")
    folder = tmp_path / "probabilities"
    prediction(tmp_path / "in", tmp_path / "out", weights, probabilities_dir=str(folder)).run()
    pickled_array(folder / "a.npy", marker)
    with pytest.raises(CaseError, match="case a"):
        write_ensemble(EnsembleRequest([folder, folder], tmp_path / "in", tmp_path / "masks"))
    assert not marker.exists()


def test_what_a_survey_kept_runs_nothing(tmp_path, marker):
    with (tmp_path / "a.npz").open("wb") as file:
        np.savez(file, json=np.array([Payload(marker)], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        CaseFacts.load(tmp_path / "a.npz")
    assert not marker.exists()


# --- texts


LOGGING = """
[loggers]
keys=root
[handlers]
keys=own
[formatters]
keys=
[logger_root]
level=INFO
handlers=own
[handler_own]
class={cls}
args={args}
"""


@pytest.mark.parametrize(
    ("cls", "args"),
    [
        ("StreamHandler", "(__import__('os').system('touch {marker}'),)"),
        ("__import__('os').system('touch {marker}')", "()"),
        ("handlers.SocketHandler", "('127.0.0.1', 9)"),
    ],
)
def test_logging_conf_runs_nothing(tmp_path, marker, cls, args):
    path = tmp_path / "logging.conf"
    path.write_text(LOGGING.format(cls=cls, args=args).replace("{marker}", str(marker)))
    with pytest.raises(ValueError, match="[Hh]andler|logging"):
        ConfigWorkflow(
            config_file=str(BUNDLE / "configs" / "inference.json"),
            workflow_type="infer",
            logging_file=str(path),
        )
    assert not marker.exists()


@pytest.mark.parametrize("name", ["a/../b", "/etc/x", "..", ".a", "a\nERROR b", "a\0", 1, ""])
def test_a_list_of_images_names_no_other_place(tmp_path, name):
    path = tmp_path / "list.json"
    path.write_text(json.dumps([{"image": "a.nii.gz", "name": name}]))
    with pytest.raises(BundleError, match=r"not a path|\[0\]\.name: 1 is not of type 'string'"):
        find_inputs(path)


def test_a_list_of_images_has_no_null(tmp_path):
    (tmp_path / "list.json").write_text(json.dumps(["a\0.nii.gz"]))
    with pytest.raises(
        BundleError, match=r"\[0\]: 'a\\x00\.nii\.gz' is not a path of .* without null"
    ):
        find_inputs(tmp_path / "list.json")


def test_names_of_files_are_data(tmp_path, marker):
    save_cases(tmp_path / "in", "$__import__('os').system('touch marker')", "@plan", "%run")
    weights = threshold_weights(tmp_path / "model.pt")
    prediction(tmp_path / "in", tmp_path / "out", weights).run()
    names = {path.name for path in (tmp_path / "out").glob("*.nii.gz")}
    assert names == {path.name for path in (tmp_path / "in").iterdir()}
    assert not Path("marker").exists()


# --- archives


def archive(path: Path, name: str, content: bytes = b"DICM", mode: int = 0) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        entry = zipfile.ZipInfo(name)
        entry.compress_type = zipfile.ZIP_DEFLATED
        entry.external_attr = mode << 16
        file.writestr(entry, content)
    return path


@pytest.mark.parametrize(
    ("name", "content", "mode", "problem"),
    [
        ("../marker", b"x", 0, "leads out"),
        ("/tmp/marker", b"x", 0, "leads out"),  # noqa: S108 - nothing comes there
        ("a/..\\..\\marker", b"x", 0, "leads out"),
        ("C:\\marker", b"x", 0, "leads out"),
        ("link", b"/etc/passwd", stat.S_IFLNK | 0o777, "symbolic link"),
        ("bomb.dcm", bytes((1 << 28) + 1), 0, "-fold"),
    ],
)
def test_an_archive_does_no_harm(tmp_path, name, content, mode, problem):
    pytest.importorskip("pydicom")
    path = archive(tmp_path / "study.zip", name, content, mode)
    with pytest.raises(DatasetError, match=problem):
        find_inputs(path)
    assert [found.name for found in tmp_path.iterdir()] == ["study.zip"]
    assert not (tmp_path.parent / "marker").exists()


def test_a_plan_beside_the_weights_is_data(tmp_path, marker):
    save_cases(tmp_path / "in", "a")
    weights = threshold_weights(tmp_path / "model.pt")
    plan = {**TINY, "task_name": f"$__import__('os').system('touch {marker}')"}
    weights.with_suffix(".json").write_text(
        json.dumps({"sha256": sha256_of(weights), "plan": plan, "training": {"num_cases": "$1"}})
    )
    with pytest.raises(WeightsError, match=r"training\.num_cases: '\$1' is not of type 'integer'"):
        prediction(tmp_path / "in", tmp_path / "out", weights).run()
    weights.with_suffix(".json").write_text(
        json.dumps({"sha256": sha256_of(weights), "plan": plan})
    )
    with pytest.raises(WeightsError, match="another plan"):
        prediction(tmp_path / "in", tmp_path / "out", weights).run()
    assert not marker.exists()
