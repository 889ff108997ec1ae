"""nnU-Net's part of the learning benchmark: train for given CPU seconds; runs in the environment of the peers.

    python -P learn_peer.py JOB.json

The job names the preprocessed data set, the results folder, the budgets in CPU seconds and the schedule. Everything
except the length of the training is nnU-Net's own trainer: network, loss, optimizer, augmentation, sampling. A
checkpoint is written when each budget is spent; CPU seconds are those of the training steps with their batches.
"""

import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

DEFAULT_EPOCHS, EPOCH_STEPS = 1000, 250
"""Length of nnU-Net's own schedule."""

EXPONENT = 0.9
"""Of the polynomial schedule, as in nnU-Net's ``PolyLRScheduler``."""


def train(job: dict[str, Any]) -> None:
    """Train for the largest budget, and save a model folder at each."""
    os.environ.update(
        {key: job[key] for key in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    )
    # the batches are computed in this process, so that their CPU seconds count
    os.environ.update({"nnUNet_n_proc_DA": "0", "nnUNet_compile": "f"})
    torch.set_num_threads(1)
    torch.manual_seed(job["seed"])
    np.random.seed(job["seed"])
    module = importlib.import_module("nnunetv2.training.nnUNetTrainer.nnUNetTrainer")
    source = Path(job["nnUNet_preprocessed"]) / job["dataset"]
    plans = json.loads((source / "nnUNetPlans.json").read_text(encoding="utf-8"))
    # nnU-Net's run_training adds it to the plans
    plans["continue_training"] = False
    dataset = json.loads((source / "dataset.json").read_text(encoding="utf-8"))
    trainer = module.nnUNetTrainer(
        plans, job["configuration"], job["fold"], dataset, device=torch.device("cpu")
    )
    trainer.initialize()
    trainer.on_train_start()
    trainer.network.train()
    spent, steps, losses = 0.0, 0, []
    for budget in sorted(job["budgets"]):
        while spent < budget:
            start = time.process_time()
            progress = spent / budget
            if job["schedule"] == "default":
                progress = (steps // EPOCH_STEPS) / DEFAULT_EPOCHS
            for group in trainer.optimizer.param_groups:
                group["lr"] = trainer.initial_lr * (1 - progress) ** EXPONENT
            losses.append(float(trainer.train_step(next(trainer.dataloader_train))["loss"]))
            spent += time.process_time() - start
            steps += 1
        path = Path(trainer.output_folder) / f"checkpoint_{budget:g}.pth"
        trainer.save_checkpoint(str(path))
        facts = {"cpu_s": spent, "steps": steps, "loss": float(np.mean(losses[-50:]))}
        path.with_suffix(".json").write_text(json.dumps(facts), encoding="utf-8")


if __name__ == "__main__":
    train(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
