"""A handler that tests add to a training: each process writes what it has seen to a separate file."""

from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import nn


class RankProbe:
    """Write ``rank_R.pt``: the weights after each epoch, the samples and losses of each iteration, the scores."""

    def __init__(self, folder: str, rank: int, network: nn.Module, loader: Any, evaluator: Engine):
        self.path = Path(folder) / f"rank_{rank}.pt"
        self.network, self.loader, self.evaluator = network, loader, evaluator
        names = ("weights", "samples", "losses", "scores", "val_losses")
        self.seen: dict[str, list[Any]] = {name: [] for name in names}
        self.validated = 0

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.note_iteration)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.note_epoch)
        self.evaluator.add_event_handler(Events.ITERATION_COMPLETED, self.note_case)

    def note_iteration(self, engine: Engine) -> None:
        self.seen["losses"].append(float(engine.state.output["loss"]))
        self.seen["samples"].append([sample["sample"] for sample in self.loader.last_samples()])

    def note_case(self) -> None:
        self.validated += 1

    def note_epoch(self, engine: Engine) -> None:
        weights = {name: value.clone() for name, value in self.network.state_dict().items()}
        self.seen["weights"].append(weights)
        metrics = self.evaluator.state.metrics
        self.seen["scores"].append(float(metrics["val_mean_dice"]))
        self.seen["val_losses"].append(float(metrics["val_loss"]))
        torch.save({**self.seen, "validated": self.validated}, self.path)
