"""MONAI Label trains the bundle: the overrides of its 0.8.5 (``tasks/train/bundle.py``), without MONAI Label."""

import copy
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import monai.bundle
import nibabel as nib
import pytest
import torch
from conftest import BUNDLE, TINY
from monai.bundle import ConfigParser
from monai.data import partition_dataset

from dynunet_bundle.errors import find_user_error
from dynunet_bundle.networks.architectures import training_network
from dynunet_bundle.networks.dynunet import DeepSupervisedDynUNet
from dynunet_bundle.training.handlers.generations import LAST

PLAN = {
    **TINY,
    # deep enough for a head
    "strides": [[1, 1, 1], *[[2, 2, 2]] * 3],
    "kernel_sizes": [[3, 3, 3]] * 4,
    "filters": [2, 3, 4, 5],
    "epochs": 1000,
}
Case = dict[str, str]


class Label:
    """A server that has loaded a bundle."""

    def __init__(self, bundle: Path, strict: bool = True) -> None:
        self.bundle = bundle
        self.strict = strict
        self.config = ConfigParser()
        self.config.read_config(str(bundle / "configs" / "train.json"))
        self.config.config["bundle_root"] = str(bundle)

    def overrides(self, cases: Sequence[Case], max_epochs: int, val_split: float) -> dict[str, Any]:
        handlers = self.config.get("train#handlers", [])
        model = self.bundle / "models" / "model.pt"
        if model.exists() and not any(
            handler.get("_target_") == "CheckpointLoader" for handler in handlers
        ):
            loader = {
                "_target_": "CheckpointLoader",
                "load_path": str(model),
                "load_dict": {"model": "$@network"},
                "strict": self.strict,
            }
            handlers.insert(0, loader)
        training, validation = list(cases), [] if val_split == 0 else None
        if val_split > 0:
            training, validation = partition_dataset(cases, ratios=[1 - val_split, val_split])
        overrides = {
            "bundle_root": str(self.bundle),
            "train#trainer#max_epochs": max_epochs,
            "train#dataset#data": training,
            "device": "cpu",
            "train#handlers": handlers,
        }
        return (
            overrides if validation is None else {**overrides, "validate#dataset#data": validation}
        )

    def train(self, cases: Sequence[Case], max_epochs: int = 1, val_split: float = 0.5) -> None:
        monai.bundle.run(
            run_id="run",
            init_id=None,
            final_id=None,
            meta_file=str(self.bundle / "configs" / "metadata.json"),
            config_file=str(self.bundle / "configs" / "train.json"),
            **self.overrides(cases, max_epochs, val_split),
        )

    def train_in_processes(
        self, cases: Sequence[Case], cwd: Path
    ) -> subprocess.CompletedProcess[str]:
        for name, value in self.overrides(cases, 1, 0.5).items():
            self.config.set(value, name)
        configs = self.bundle / "configs"
        merged = configs / "monailabel_train.json"
        ConfigParser.export_config_file(self.config.config, str(merged), indent=2)
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nnodes=1"]
        command += ["--nproc_per_node=2", "-m", "monai.bundle", "run", "run"]
        command += ["--meta_file", str(configs / "metadata.json")]
        command += ["--config_file", f"['{merged}','{configs / 'multi_gpu_train.json'}']"]
        command += ["--logging_file", str(configs / "logging.conf")]
        command += ["--tracking", "None"]
        return subprocess.run(
            command,
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": str(self.bundle), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A copy of the bundle as its user has planned it."""
    folder = tmp_path / "model" / "phantom_mri_segmentation"
    hidden = shutil.ignore_patterns("__pycache__", "models", "eval")
    shutil.copytree(BUNDLE, folder, ignore=hidden)
    write_ids(folder, **PLAN)
    return folder


def write_ids(bundle: Path, **ids: Any) -> None:
    file = bundle / "configs" / "train.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **ids}))


@pytest.fixture
def studies(phantom: Path, tmp_path: Path) -> list[Case]:
    """What a datastore lists: images, and labels that somebody drew."""
    cases = []
    for image in sorted((phantom / "imagesTr").glob("*.nii.gz")):
        label = tmp_path / "studies" / "labels" / "final" / image.name
        label.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(phantom / "labelsTr" / image.name, label)
        copied = shutil.copy(image, tmp_path / "studies" / image.name)
        cases.append({"image": str(copied), "label": str(label)})
    return cases


def draw_anew(case: Case) -> None:
    label = nib.load(case["label"])
    nib.save(nib.Nifti1Image((label.get_fdata() > 0).astype("uint8"), label.affine), case["label"])


def model_of(bundle: Path) -> dict[str, torch.Tensor]:
    return torch.load(bundle / "models" / "model.pt", weights_only=True)


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def log_of(bundle: Path) -> list[dict[str, Any]]:
    lines = (bundle / "eval" / "train_log.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("strict", [True, False])
def test_each_training_goes_on_from_the_model_of_the_one_before(
    bundle: Path, studies: list[Case], strict: bool
) -> None:
    server, models = Label(bundle, strict), bundle / "models"
    server.train(studies[:2], max_epochs=2)
    first = model_of(bundle)
    assert [line["epoch"] for line in log_of(bundle)] == [1, 2]
    assert "dice" in log_of(bundle)[-1]
    # more cases, and one label drawn anew
    draw_anew(studies[0])
    server.train(studies[:4], max_epochs=1)
    second = model_of(bundle)
    assert not same(second, first)
    assert [line["epoch"] for line in log_of(bundle)] == [1]
    assert same(torch.load(models / "earlier_run_1" / "model.pt", weights_only=True), first)
    assert torch.load(models / "earlier_run_1" / LAST, weights_only=True)["epoch"] == 2
    # at a rate of 0 the model is what it began with
    write_ids(bundle, learning_rate=0.0)
    Label(bundle, strict).train(studies, max_epochs=1)
    assert same(model_of(bundle), second)
    cases = torch.load(models / LAST, weights_only=True)["cases"]
    assert len(cases) == 3
    assert same(torch.load(models / "earlier_run_2" / "model.pt", weights_only=True), second)


def test_a_training_that_fails_leaves_the_model_for_the_next(
    bundle: Path, studies: list[Case]
) -> None:
    server = Label(bundle)
    server.train(studies[:2])
    first = model_of(bundle)
    Path(studies[3]["label"]).write_bytes(b"no image")
    with pytest.raises(RuntimeError) as caught:
        server.train(studies)
    assert "phantom_003" in str(find_user_error(caught.value))
    assert same(model_of(bundle), first)
    server.train(studies[:3])
    assert not same(model_of(bundle), first)


def test_the_schedule_ends_with_the_epochs_of_the_request(
    bundle: Path, studies: list[Case]
) -> None:
    Label(bundle).train(studies[:2], max_epochs=4)
    rates = [line["learning_rate"] for line in log_of(bundle)]
    assert rates == pytest.approx([0.01 * (1 - epoch / 4) ** 0.9 for epoch in range(4)])


@pytest.mark.parametrize("val_split", [0.0, -1.0])
def test_without_a_split_it_trains_on_all_cases(
    bundle: Path, studies: list[Case], phantom: Path, val_split: float
) -> None:
    """0: no validation; -1: the bundle's own."""
    write_ids(bundle, dataset_dir=str(phantom))
    Label(bundle).train(studies[:2], val_split=val_split)
    facts = json.loads((bundle / "models" / "model.json").read_text())
    assert (facts["val_mean_dice"] is None) == (val_split == 0)
    assert len(torch.load(bundle / "models" / LAST, weights_only=True)["cases"]) == 2


def test_it_trains_in_a_thread_of_a_server(bundle: Path, studies: list[Case]) -> None:
    failures: list[BaseException] = []

    def train() -> None:
        try:
            Label(bundle).train(studies[:2])
        except BaseException as error:  # noqa: BLE001 - a thread would swallow it
            failures.append(error)

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert failures == []
    assert model_of(bundle)


def test_several_processes_take_its_merged_config(
    bundle: Path, studies: list[Case], tmp_path: Path
) -> None:
    Label(bundle).train(studies[:2])
    first = model_of(bundle)
    write_ids(bundle, learning_rate=0.0)
    result = Label(bundle).train_in_processes(studies, tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    # the wrapped network has loaded what one process had trained
    assert same(model_of(bundle), first)
    state = torch.load(bundle / "models" / LAST, weights_only=True)
    assert (state["world_size"], state["epoch"], len(state["cases"])) == (2, 1, 3)
    assert "output_block.conv.conv.weight" in state["model"]
    assert (bundle / "models" / "earlier_run_1" / "model.pt").is_file()


@pytest.mark.parametrize("architecture", ["DynUNet", "ResidualEncoderUNet"])
def test_weights_without_heads_load_strictly_and_nothing_else_is_forgiven(
    architecture: str,
) -> None:
    settings = {
        "spatial_dims": 2,
        "in_channels": 1,
        "out_channels": 2,
        "kernel_sizes": [[3, 3]] * 4,
        "strides": [[1, 1]] + [[2, 2]] * 3,
        "filters": [2, 3, 4, 5],
    }
    network, other, trained = (training_network(architecture, **settings) for _ in range(3))
    whole = trained.state_dict()
    heads = [name for name in whole if name.startswith("supervision_heads.")]
    assert heads
    before = {name: value.clone() for name, value in network.state_dict().items()}
    plain = {name: value for name, value in whole.items() if name not in heads}
    network.load_state_dict(plain)
    for name, value in network.state_dict().items():
        assert torch.equal(value, (before if name in heads else plain)[name]), name
    # also as part of a wrapper, which has names of its own
    torch.nn.DataParallel(other).load_state_dict({f"module.{k}": v for k, v in plain.items()})
    assert torch.equal(other.output_block.conv.conv.weight, plain["output_block.conv.conv.weight"])
    network.load_state_dict(whole)
    assert torch.equal(network.state_dict()[heads[0]], whole[heads[0]])
    some = {name: value for name, value in whole.items() if name != heads[0]}
    with pytest.raises(RuntimeError, match=f'Missing key.*"{heads[0]}"'):
        network.load_state_dict(some)
    with pytest.raises(RuntimeError, match="Missing key.*output_block"):
        network.load_state_dict({k: v for k, v in plain.items() if "output_block" not in k})
    with pytest.raises(RuntimeError, match="Unexpected key.*else"):
        network.load_state_dict({**plain, "something.else": torch.zeros(1)})


def test_a_copy_keeps_its_own_heads() -> None:
    """A deep copy, as of the average, must not be filled in with the heads of the network that was copied."""
    levels = ([[3, 3]] * 4, [[1, 1]] + [[2, 2]] * 3, [2, 2, 2, 2])
    network = DeepSupervisedDynUNet(2, 1, 2, *levels)
    copied = copy.deepcopy(network)
    with torch.no_grad():
        network.supervision_heads[0].conv.conv.bias.fill_(5)
    plain = {k: v for k, v in network.state_dict().items() if "supervision_heads" not in k}
    copied.load_state_dict(plain)
    assert copied.supervision_heads[0].conv.conv.bias.abs().max() == 0
