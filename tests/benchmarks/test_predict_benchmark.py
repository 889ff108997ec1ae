"""The prediction benchmark at tiny sizes times what its titles say; nnU-Net is skipped if it is not installed."""

import json
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import BUNDLE, save_nifti

from benchmarks import (
    predict,
    predict_contender,
    predict_files,
    predict_forward,
    predict_jobs,
    predict_parity,
    predict_peer,
    predict_scan,
    predict_stages,
)
from benchmarks.measure import Measurement, choose_core
from dynunet_bundle.errors import ConfigError, DatasetError

CORE = choose_core(None)
SOLID = predict_forward.Patches((16, 16, 16), 1, 3, 1, 3)
FLAT = predict_forward.Patches((16, 16), 4, 3, 2, 3)
SCAN = predict_scan.Scan((25, 32, 32), 0.8, 1.0, (16, 16, 16), 3, 4)


@pytest.fixture
def here(monkeypatch):
    """Run contenders in this process and unwrap their stages afterwards: ``here(contender, core)``."""

    class Undone(predict_stages.Stages):
        def wrap(self, owner, name, stage):
            monkeypatch.setattr(owner, name, getattr(owner, name))
            super().wrap(owner, name, stage)

    def run(contender, core=None):
        if contender.missing:
            return Measurement(contender.name, remark=f"skipped: {contender.missing}")
        (step,) = contender.steps
        monkeypatch.setattr(sys, "argv", ["program", step.command[-1]])
        predict_contender.main()
        return Measurement(contender.name, **json.loads(step.figures.read_text()))

    monkeypatch.setattr(predict_contender, "Stages", Undone)
    for module in (predict_jobs, predict_scan):
        monkeypatch.setattr(module, "measure", run)
    return run


def do(here, job, folder):
    return here(predict_jobs.contender("ours", job, folder, folder))


def burn(seconds):
    start = time.process_time()
    while time.process_time() - start < seconds:
        pass


class Work:
    def outer(self):
        burn(0.01)
        self.inner()

    def inner(self):
        burn(0.04)


def test_stages_count_their_own_time_only():
    stages, work = predict_stages.Stages(), Work()
    stages.wrap(work, "outer", "outer")
    stages.wrap(work, "inner", "inner")
    before = time.process_time()
    work.outer()
    burn(0.02)
    work.outer()
    stages.finish()
    seconds = stages.seconds
    assert sum(seconds.values()) == pytest.approx(time.process_time(), abs=0.01)
    assert seconds["start-up"] == pytest.approx(before, abs=0.01)
    assert seconds["inner"] >= 0.08 and 0.02 <= seconds["outer"] < 0.05
    assert seconds["other"] >= 0.02
    assert stages.calls == {"outer": 2, "inner": 2}


def test_the_stand_in_tells_bands_and_lets_the_network_compute_first():
    calls = []

    class Network(torch.nn.Module):
        def forward(self, x):
            calls.append(len(x))
            return x

    bands = {"num_classes": 4, "mean": 200.0, "std": 50.0, "width": 100.0}
    stages = predict_stages.Stages()
    stand_in = predict_stages.StandIn(Network(), bands, 2, stages)
    intensities = torch.tensor([-20.0, 30, 110, 160, 290, 500])
    x = ((intensities - 200) / 50).view(1, 1, 1, 1, -1)
    for _ in range(3):
        classes = stand_in(x).argmax(1).flatten().tolist()
    assert classes == [0, 0, 1, 2, 3, 3]
    assert calls == [1, 1] and stages.calls == {"network": 2, "stand-in": 3}


def test_a_contender_is_a_process_of_its_environment(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").touch()
    peer = predict_jobs.contender("x", {"contender": predict_jobs.PEER}, tmp_path, tmp_path)
    (step,) = peer.steps
    assert step.command[0] == str(tmp_path / "bin" / "python") and peer.missing == ""
    job = json.loads(Path(step.command[-1]).read_text())
    assert job == {"contender": predict_jobs.PEER, "figures": str(step.figures)}
    ours = predict_jobs.contender("x", {"contender": "ours"}, tmp_path, tmp_path)
    assert ours.steps[0].command[0] == sys.executable
    assert ours.steps[0].command[-1] != step.command[-1]
    # programs that run in nnU-Net's environment may only need torch and numpy
    code = "import sys, benchmarks.predict_contender as _, benchmarks.predict_peer as _\n"
    code += "sys.exit('monai' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_forward_pass_is_timed_step_by_step(tmp_path, here):
    arguments = (BUNDLE, tmp_path, tmp_path / "no peers", CORE)
    (section,) = predict_forward.run(*arguments, precisions=["bf16"], grid=[SOLID]).items()
    title, (ours, onnx, peer) = section
    assert "1 x 16x16x16, batch 1, bf16, CPU" in title
    assert len(ours.details["steps_ms"]) == 3 and ours.cpu_s > 0 and ours.peak_mib > 50
    assert "patches/CPU s" in ours.remark
    assert onnx.remark == "skipped: not exported in bf16"
    assert peer.remark == "skipped: nnU-Net does not predict in bf16 here"


@pytest.mark.parametrize("patches", [SOLID, FLAT], ids=["3D", "2D"])
def test_our_network_is_the_one_of_the_plan(patches, tmp_path, here, monkeypatch):
    shapes = []
    original = predict_contender._our_network

    def watched(job, device):
        compute = original(job, device)
        return lambda batch: shapes.append(compute(batch).shape)

    monkeypatch.setattr(predict_contender, "_our_network", watched)
    job = {"job": "forward", "contender": "ours", "bundle": str(BUNDLE), "precision": "fp32"}
    job |= {"plan": predict_forward.plan_of(patches, "cpu"), "batch": patches.batch}
    done = do(here, {**job, "num_steps": 2, "warm_up": 1}, tmp_path)
    assert shapes == [(patches.batch, 3, *patches.patch)] * 3
    assert len(done.details["steps_ms"]) == 2


@pytest.mark.slow
def test_onnxruntime_computes_the_same_network(tmp_path):
    pytest.importorskip("onnxruntime")
    plan = predict_forward.plan_of(FLAT, "cpu") | {"filters": [4, 8, 16]}
    plan |= {"strides": [[1, 1], [2, 2], [2, 2]], "kernel_sizes": [[3, 3]] * 3}
    job = {"bundle": str(BUNDLE), "plan": plan, "precision": "fp32"}
    job |= {"figures": str(tmp_path / "f.json")}
    outputs = []
    for make in (predict_contender._our_network, predict_contender._onnx):
        torch.manual_seed(0)
        outputs.append(make(job, torch.device("cpu"))(torch.ones(2, 4, 16, 16)))
    torch.testing.assert_close(outputs[0].contiguous(), outputs[1], atol=1e-3, rtol=1e-3)


def test_the_grid_is_what_the_seed_publishes():
    assert [(len(one.patch), one.batch) for one in predict_forward.SEED] == [
        (3, 1),
        (3, 2),
        (3, 4),
        (2, 32),
        (2, 64),
        (2, 128),
    ]
    (small,) = predict_forward.SMALL
    plan = predict_forward.plan_of(small, "cpu")
    assert plan["filters"] == [32, 64, 128, 256] and plan["label_values"] == [0, 1, 2]


def test_what_a_device_cannot_do_is_refused(tmp_path):
    arguments = (BUNDLE, tmp_path, tmp_path, CORE)
    with pytest.raises(ConfigError, match="--precision tf32 is not one of"):
        predict_forward.run(*arguments, precisions=["tf32"])
    with pytest.raises(ConfigError, match="needs --dataset_dir"):
        predict.run(*arguments, parts=["files"])
    with pytest.raises(DatasetError, match="has 0 cases, not 20"):
        predict_files.run(BUNDLE, tmp_path, tmp_path, tmp_path, CORE)
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="no CUDA device"):
            predict.run(*arguments, parts=["forward"], device="cuda")


def test_seconds_of_a_case_and_of_the_start_up():
    one = Measurement("x", 6.0, 9.0, 100.0, details={"stages_s": {}})
    many = Measurement("x", 24.0, 30.0, 120.0, details={"stages_s": {"write": 1.0}})
    row = predict_files._row(one, many, 10)
    assert (row.cpu_s, row.details["start-up s"], row.peak_mib) == (2.0, 4.0, 120.0)
    assert row.remark.startswith("2.07 CPU s with the start-up")
    failed = Measurement("x", remark="failed: no memory")
    assert predict_files._row(one, failed, 10) is failed
    slower = Measurement("x", 7.0)
    assert predict_jobs.fastest([slower, one]) is one
    assert predict_jobs.fastest([one, failed]) is failed


def test_cases_go_from_file_to_file(tmp_path, here):
    images = [
        save_nifti(tmp_path / "in" / f"{name}.nii.gz", np.random.rand(12, 14, 10)) for name in "ab"
    ]
    folders = predict_files.link_images(images, tmp_path / "links")
    assert sorted(path.name for path in folders[predict_jobs.PEER].iterdir()) == [
        "a_0000.nii.gz",
        "b_0000.nii.gz",
    ]
    small = {"device": "cpu", "filters": [4, 8, 8, 8]}
    plan, weights = predict_files.make_weights(BUNDLE, tmp_path, small)
    own = {"contender": "ours", "precision": "float32"}
    job = predict_files.files_job(BUNDLE, plan, weights, False, own)
    job |= {"input": str(folders["ours"]), "output": str(tmp_path / "masks")}
    details = do(here, job, tmp_path).details
    assert sorted(path.name for path in (tmp_path / "masks").glob("*.nii.gz")) == [
        "a.nii.gz",
        "b.nii.gz",
    ]
    assert set(predict_scan.STAGES) == set(details["stages_s"])
    assert details["calls"] == dict.fromkeys(["preprocess", "windows", "restore", "write"], 2)


def test_a_made_ct_is_predicted_without_its_network(tmp_path, here):
    assert SCAN.prepared == (20, 26, 26) and SCAN.num_windows == 2 * 3 * 3
    plan, weights = predict_files.make_weights(BUNDLE, tmp_path, SCAN.plan())
    image = predict_scan.write_scan(tmp_path / "ct.nii.gz", SCAN)
    own = {"contender": "ours", "precision": "float32"}
    job = predict_files.files_job(BUNDLE, plan, weights, False, own)
    job |= {"overrides": SCAN.plan(), "bands": SCAN.bands(), "num_real": 2}
    job |= {"input": str(image), "output": str(tmp_path / "masks")}
    details = do(here, job, tmp_path).details
    assert details["calls"]["network"] == 2
    made = np.asarray(nib.load(image).dataobj)
    mask = np.asarray(nib.load(tmp_path / "masks" / "ct.nii.gz").dataobj)
    bands = np.clip(np.round(made / predict_scan.WIDTH), 0, SCAN.num_classes - 1)
    assert made.shape == mask.shape == (32, 32, 25) and (mask == bands).mean() > 0.85
    row = Measurement("ours, auto", 9.0, 9.0, 300.0, details=details)
    rest = predict_scan._rest(row)
    seconds = details["stages_s"]
    assert rest.cpu_s == pytest.approx(
        sum(seconds.values()) - seconds["network"] - seconds["stand-in"]
    )
    whole = predict_scan._whole(row, 18, BUNDLE)
    batch = predict_scan._batch_size("ours, auto", BUNDLE)
    expected = rest.cpu_s + 18 * seconds["network"] / (2 * batch)
    assert whole.cpu_s == pytest.approx(expected)


def test_restoring_many_classes(tmp_path, here):
    scan = predict_scan.Scan((24, 24, 24), 0.75, 1.5, (16, 16, 16), 3, 6)
    (rows,) = predict_scan.restore(BUNDLE, tmp_path, CORE, scan).values()
    assert rows[0].details["shape"] == [1, 24, 24, 24]
    assert rows[0].details["logits MiB"] == pytest.approx(6 * 12**3 * 4 / 2**20)
    assert rows[0].peak_mib > 50


@pytest.mark.parametrize("codes", ["RAS", "LPI", "PSR"])
def test_logits_are_turned_to_the_axes_of_the_file(codes, tmp_path):
    """Logits restored by hand on the axes of the file give the same mask."""
    start = nib.orientations.axcodes2ornt("RAS")
    turn = nib.orientations.ornt_transform(start, nib.orientations.axcodes2ornt(codes))
    array = np.random.default_rng(0).normal(10, 3, (12, 15, 9)).astype(np.float32)
    image = nib.Nifti1Image(array, np.diag([1.0, 1.2, 1.5, 1])).as_reoriented(turn)
    path = tmp_path / "case.nii.gz"
    nib.save(image, path)
    spacing = tuple(float(value) * 0.8 for value in image.header.get_zooms())
    case = predict_parity.Real("case.nii.gz", spacing)
    mask, logits, shape = predict_parity.restored(BUNDLE, path, case)
    assert mask.shape == image.shape
    assert shape == tuple(round(size / 0.8) for size in image.shape[::-1])
    resized = torch.nn.functional.interpolate(
        torch.from_numpy(logits)[None], image.shape[::-1], mode="trilinear"
    )
    assert (resized[0].argmax(0).numpy().T == mask).mean() > 0.999


def test_plans_for_nnunet_name_what_it_asks_for():
    plan = SCAN.plan()
    plans = predict_peer.plans(plan)
    configuration = plans["configurations"][predict_peer.CONFIGURATION]
    assert configuration["spacing"] == [1.0, 1.0, 1.0]
    assert configuration["normalization_schemes"] == ["CTNormalization"]
    assert configuration["resampling_fn_probabilities_kwargs"]["order"] == 1
    found = plans["foreground_intensity_properties_per_channel"]["0"]
    assert found["percentile_00_5"] == plan["intensity_statistics"][0]["lower"]
    assert predict_peer.dataset_json(plan)["labels"]["class_3"] == 3
