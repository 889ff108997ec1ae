"""The training benchmark times the same steps with each feed, and nnU-Net's."""

import json
import sys

import pytest
import torch
from conftest import BUNDLE, run_script

from benchmarks import train, train_contender
from benchmarks.feed import Setting
from benchmarks.measure import Measurement, choose_core
from benchmarks.synthetic_feed import SyntheticLoader
from dynunet_bundle.errors import ConfigError

SOLID = Setting("small", 2, (18, 20, 16), 2, (16, 16, 16), 2, 2)
FLAT = Setting("small", 2, (10, 20, 20), 1, (16, 16), 4, 2)
CORE = choose_core(None)


@pytest.mark.slow
def test_each_feed_trains_and_is_compared_with_the_constant_batch(tmp_path):
    sections = train.run(
        BUNDLE, tmp_path, tmp_path / "no peers", CORE, "cpu", rounds=2, settings=[SOLID]
    )
    (title, rows), (_, parts) = sections.items()
    assert "2 x 16x16x16, batch 2, fp32, CPU" in title
    assert [row.contender for row in rows[:4]] == [*train.FEEDS, "nnunetv2"]
    assert all(row.remark.startswith("skipped: ") for row in rows[3:])
    for row in rows[:3]:
        assert row.wall_s > 0 and row.cpu_s > 0 and row.peak_mib > 50, row.remark
        assert "samples/CPU s" in row.remark
        assert len(row.details["steps_ms"]) == 4
        figures = [row.details[f"{percent} % ms"] for percent in (90, 95, 99)]
        assert 0 < min(row.details["steps_ms"]) <= row.details["mean ms"]
        assert figures == sorted(figures) and figures[-1] <= max(row.details["steps_ms"])
    assert "%" not in rows[0].remark and "%" in rows[2].remark
    assert [row.contender for row in parts] == list(train.FEEDS)
    for row in parts:
        assert list(row.details) == list(train_contender.PARTS)
        assert row.details["backward"] > 0 and row.details["optimizer"] > 0


def test_the_fastest_round_counts_and_all_steps():
    rows = [
        Measurement(
            "x", cpu, 9.0, 1.0, details={"steps_ms": [cpu, 10.0], "parts_ms": {"loss": cpu}}
        )
        for cpu in (3.0, 2.0)
    ]
    best = train._fastest(rows, "cpu")
    assert (best.cpu_s, best.details["parts_ms"]) == (2.0, {"loss": 2.0})
    assert best.details["mean ms"] == pytest.approx((3 + 10 + 2 + 10) / 4)
    failed = Measurement("x", remark="failed: no memory")
    assert train._fastest([rows[0], failed], "cpu") is failed


@pytest.mark.parametrize("setting", [SOLID, FLAT], ids=["3D", "2D"])
def test_the_job_of_a_contender(setting, tmp_path, monkeypatch):
    job = train._job(BUNDLE, setting, "cpu", 2, tmp_path)
    own = {"contender": "ours", "feed": "augmented", "precision": "bf16"}
    own |= {"num_threads": 1, "num_workers": 0, "figures": str(tmp_path / "figures.json")}
    (tmp_path / "job.json").write_text(json.dumps({**job, **own}))
    monkeypatch.setattr(sys, "argv", ["program", str(tmp_path / "job.json")])
    monkeypatch.setattr(
        "dynunet_bundle.training.process.numerics.keep_freed_memory", lambda device: False
    )
    train_contender.main()
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["cpu_s"] > 0 and len(figures["details"]["steps_ms"]) == 2


def test_a_step_is_a_training_step():
    torch.manual_seed(0)
    network = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(network.parameters(), 1.0)
    image = torch.randn(8, 3)
    target = 1e6 * image.sum(1, keepdim=True)
    batches = iter([(image, target)])
    training = train_contender.Training(network, torch.nn.functional.mse_loss, optimizer, batches)
    before = [value.clone() for value in network.parameters()]
    clock = iter(range(6))
    stepper = train_contender.Stepper(training, torch.device("cpu"), "fp32")
    assert stepper.step(lambda: next(clock)) == list(range(6))
    moved = [new - old for new, old in zip(network.parameters(), before, strict=True)]
    # the gradient is far above the norm at which it is clipped
    assert torch.cat([part.flatten() for part in moved]).norm().item() == pytest.approx(12)


def test_parts_are_the_means_of_their_times():
    moments = [[0.0, 1.0, 3.0, 6.0, 10.0, 15.0], [0.0, 3.0, 5.0, 8.0, 12.0, 17.0]]
    parts = train_contender._parts(moments)
    assert list(parts.values()) == pytest.approx([2000, 2000, 3000, 4000, 5000])


def test_what_a_device_cannot_do_is_refused(tmp_path):
    arguments = (BUNDLE, tmp_path, tmp_path, CORE)
    with pytest.raises(ConfigError, match=r"--precision tf32 is not one of \('fp32', 'bf16'\)"):
        train.run(*arguments, "cpu", ["tf32"], settings=[SOLID])
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="no CUDA device"):
            train.run(*arguments, "cuda")
        result = run_script("benchmark", "train", "--grid", "seed")
        assert result.returncode == 2 and "no CUDA device" in result.stderr


def test_what_nnunet_does_not_have_is_skipped(tmp_path):
    job = {**train._job(BUNDLE, SOLID, "cpu", 2, tmp_path), "precision": "bf16"}
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").touch()
    peer = list(train._contenders(job, tmp_path, tmp_path))[3]
    assert peer.missing == "nnU-Net has no bf16"
    peer = list(train._contenders({**job, "precision": "fp32"}, tmp_path, tmp_path))[3]
    assert peer.missing == "" and peer.environment == {}


def test_the_grid_is_what_the_seed_publishes():
    assert [(len(one.patch), one.batch) for one in train.SEED] == [
        (3, 1),
        (3, 2),
        (3, 4),
        (2, 32),
        (2, 64),
        (2, 128),
    ]
    (small,) = train.SMALL
    plan = train._plan(small, "cpu")
    assert plan["filters"] == [32, 64, 128, 256] and small.batch == 7
    assert plan["strides"] == [[1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 2, 2]]


def test_the_constant_batch_is_one_of_the_declared_form():
    loader = SyntheticLoader((4, 5, 6), 3, 2, num_channels=2, num_classes=3)
    batches = list(loader)
    assert len(batches) == len(loader) == 2
    assert batches[0]["image"].shape == (3, 2, 4, 5, 6)
    assert batches[0]["label"].shape == (3, 1, 4, 5, 6)
    assert set(batches[0]["label"].unique().tolist()) == {0, 1, 2}
    assert all((batches[0][key] == batches[1][key]).all() for key in batches[0])
