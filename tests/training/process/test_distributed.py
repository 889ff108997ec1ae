"""Two processes train as one; torchrun starts them, as for users."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import BUNDLE, TINY
from ignite.engine import Events
from monai.bundle import ConfigWorkflow
from torch import nn

from dynunet_bundle.errors import ConfigError
from dynunet_bundle.training.process import distributed
from dynunet_bundle.training.process.distributed import (
    Shard,
    any_rank,
    distributed_network,
    local_device,
)

CONFIGS = "['configs/train.json','configs/multi_gpu_train.json'{}]"
PROBE = {
    "_target_": "rank_probe.RankProbe",
    "rank": "@rank",
    "network": "@network_def",
    "loader": "@train#dataloader",
    "evaluator": "@validate#evaluator",
}


def torchrun(
    folder: Path, dataset: Path, overlays: str = "", config: str = CONFIGS, **overrides: Any
) -> subprocess.CompletedProcess[str]:
    """Train the tiny plan in two processes, with the probe as a handler."""
    probe = folder / "probe.json"
    folder.mkdir(parents=True, exist_ok=True)
    probe.write_text(json.dumps({"+train#handlers": [{**PROBE, "folder": str(folder)}]}))
    settings = {
        **TINY,
        "dataset_dir": dataset,
        "device": None,
        "ckpt_dir": folder / "models",
        "output_dir": folder / "run",
        "prepared_dir": folder.parent / "prepared",
        "trust": True,
        **overrides,
    }
    arguments = [
        part
        for name, value in settings.items()
        if value is not None
        for part in (f"--{name}", str(value))
    ]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += ["-m", "monai.bundle", "run", "training"]
    command += ["--config_file", config.format(f",'{probe}'{overlays}"), *arguments]
    return subprocess.run(
        command,
        cwd=BUNDLE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def ranks(folder: Path, phantom: Path) -> list[dict[str, Any]]:
    """The records of the two processes from a training of two epochs."""
    result = torchrun(folder / "two", phantom)
    assert result.returncode == 0, result.stderr[-3000:]
    return [torch.load(folder / "two" / f"rank_{index}.pt", weights_only=True) for index in (0, 1)]


def test_the_weights_are_bitwise_equal_in_all_processes(ranks: list[dict[str, Any]]) -> None:
    first, second = (rank["weights"] for rank in ranks)
    assert len(first) == 2
    for ours, theirs in zip(first, second, strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert not torch.equal(
        first[0]["output_block.conv.conv.weight"], first[1]["output_block.conv.conv.weight"]
    )


def test_the_processes_share_one_sequence_of_samples(ranks: list[dict[str, Any]]) -> None:
    batch = 2
    for iteration in range(4):
        both = ranks[0]["samples"][iteration] + ranks[1]["samples"][iteration]
        first = iteration * 2 * batch
        assert both == list(range(first, first + 2 * batch))


def test_the_scores_are_of_all_cases(ranks: list[dict[str, Any]], folder: Path) -> None:
    assert ranks[0]["scores"] == ranks[1]["scores"]
    # six cases in three folds: one held-out case for each process and epoch
    assert [rank["validated"] for rank in ranks] == [2, 2]
    log = (folder / "two" / "run" / "train_log.jsonl").read_text().splitlines()
    assert [json.loads(line)["dice"] for line in log] == pytest.approx(ranks[0]["scores"], abs=1e-6)
    assert ranks[0]["val_losses"] == ranks[1]["val_losses"]
    logged = [json.loads(line)["val_loss"] for line in log]
    assert logged == pytest.approx(ranks[0]["val_losses"], abs=1e-6)


def test_only_the_first_process_writes(ranks: list[dict[str, Any]], folder: Path) -> None:
    models = folder / "two" / "models"
    assert {path.name for path in models.iterdir()} == {
        "checkpoint_last.pt",
        "checkpoint_last.previous.pt",
        "model.pt",
        "model.json",
    }
    assert len(list((folder / "two" / "run" / "tensorboard").iterdir())) == 1
    status = json.loads((folder / "two" / "run" / "status.json").read_text())
    assert (status["state"], status["world_size"], status["epoch"]) == ("finished", 2, 2)


def test_two_processes_equal_one_with_the_joint_batch(
    ranks: list[dict[str, Any]], train_workflow: Callable[..., ConfigWorkflow]
) -> None:
    """Samples, losses (averaged over the processes) and weights are the same."""
    workflow = train_workflow(batch_size=4)
    losses: list[float] = []
    trainer = workflow.parser.get_parsed_content("train#trainer")
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED,
        lambda engine: losses.append(float(engine.state.output["loss"])),
    )
    workflow.run()
    together = [sum(pair) / 2 for pair in zip(ranks[0]["losses"], ranks[1]["losses"], strict=True)]
    assert losses == pytest.approx(together, abs=1e-5)
    network = workflow.parser.get_parsed_content("network").state_dict()
    for name, value in ranks[0]["weights"][-1].items():
        torch.testing.assert_close(value, network[name], atol=1e-4, rtol=1e-3)


def test_a_process_without_cases_and_another_number_of_processes(
    ranks: list[dict[str, Any]],
    folder: Path,
    phantom: Path,
    train_workflow: Callable[..., ConfigWorkflow],
    log: pytest.LogCaptureFixture,
) -> None:
    """One held-out case for two processes; then the same training resumes in one."""
    own = {"num_folds": 6, "val_interval": 1}
    result = torchrun(folder / "uneven", phantom, epochs=1, **own)
    assert result.returncode == 0, result.stderr[-3000:]
    both = [
        torch.load(folder / "uneven" / f"rank_{index}.pt", weights_only=True) for index in (0, 1)
    ]
    assert both[0]["scores"] == both[1]["scores"]
    assert both[0]["scores"][0] >= 0
    assert both[0]["val_losses"] == both[1]["val_losses"]
    assert both[0]["val_losses"][0] > 0
    workflow = train_workflow(
        ckpt_dir=str(folder / "uneven" / "models"),
        output_dir=str(folder / "uneven" / "run"),
        prepared_dir=str(folder / "prepared"),
        epochs=2,
        **own,
    )
    workflow.run()
    lines = (folder / "uneven" / "run" / "train_log.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]
    assert "ran in 2 processes and resumes in 1, at the start of the next epoch" in log.text


def test_torchrun_without_the_overlay_is_refused(folder: Path, phantom: Path) -> None:
    result = torchrun(folder / "plain", phantom, config="['configs/train.json']")
    assert result.returncode != 0
    assert "torchrun started 2 processes" in result.stderr
    assert "multi_gpu_train.json" in result.stderr
    assert not (folder / "plain" / "models").exists()


def test_the_overlay_without_torchrun_is_refused(
    train_workflow: Callable[..., ConfigWorkflow],
) -> None:
    with pytest.raises(ConfigError, match="torchrun"):
        train_workflow(str(BUNDLE / "configs" / "multi_gpu_train.json")).run()


def test_the_device_is_that_of_the_process_on_its_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fourth process may be the second one on the second machine."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert local_device() == torch.device("cuda", 1)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ConfigError, match="--nproc_per_node"):
        local_device()
    monkeypatch.setenv("LOCAL_RANK", "x")
    with pytest.raises(ConfigError, match="LOCAL_RANK"):
        local_device()


def test_batch_norm_is_synchronised_between_gpus_and_refused_between_cpus(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = nn.Sequential(nn.Conv3d(1, 2, 1), nn.BatchNorm3d(2))
    with pytest.raises(ConfigError, match="norm_name"):
        distributed_network(network, "cpu")
    wrapped = SimpleNamespace()

    def remember(module: nn.Module, **settings: Any) -> nn.Module:
        wrapped.module, wrapped.settings = module, settings
        return module

    monkeypatch.setattr(distributed, "DistributedDataParallel", remember)
    distributed_network(network, torch.device("cuda", 1))
    assert isinstance(wrapped.module[1], nn.SyncBatchNorm)
    assert wrapped.settings["device_ids"] == [torch.device("cuda", 1)]


@pytest.mark.parametrize(("num_cases", "world_size"), [(5, 2), (3, 4), (1, 3), (8, 8)])
def test_every_case_is_validated_once(num_cases: int, world_size: int) -> None:
    cases: Any = [
        {"image": torch.full((1, 2), float(i)), "label": torch.ones(1, 2)} for i in range(num_cases)
    ]
    scored = []
    for rank in range(world_size):
        shard = Shard(cases, rank, world_size)
        assert len(shard) >= 1
        found = [shard[index] for index in range(len(shard))]
        scored += [int(case["image"][0, 0]) for case in found if case["label"].any()]
    assert sorted(scored) == list(range(num_cases))


def test_one_process_decides_alone() -> None:
    assert any_rank(True)
    assert not any_rank(False)
