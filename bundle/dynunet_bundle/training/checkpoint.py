"""Checkpoints: the best model for inference, and the last state to go on from.

In ``ckpt_dir``:

    model.pt                       weights of the best epoch, for a plain DynUNet
    model.json                     their plan, score, SHA-256 and versions
    checkpoint_last.pt             all that is needed to go on
    checkpoint_last.previous.pt    the generation before

MONAI's CheckpointSaver writes in place: a crash during a save destroys the last good file.
"""

import logging
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from dynunet_bundle.errors import ConfigError, first_line
from dynunet_bundle.feed.loader import DaliLoader
from dynunet_bundle.files import atomic_write
from dynunet_bundle.inference.weights import save_weights
from dynunet_bundle.network import inference_state_dict
from dynunet_bundle.planning.plan import plan_differences

LAST = "checkpoint_last.pt"
PREVIOUS = "checkpoint_last.previous.pt"
MODEL = "model.pt"

logger = logging.getLogger(__name__)


class CheckpointHandler:
    """Save the last state and the best model at the end of each epoch; go on from the last state at the start.

    A training that is started again with the same folder continues where it stopped; one that has finished does
    nothing; ``restart`` ignores what is there. It must be attached after the validation and the schedule.

    Args:
        ckpt_dir: folder of the files.
        network: the network that is trained.
        optimizer: its optimizer.
        lr_scheduler: its schedule.
        loader: the feed, whose position belongs to the state.
        evaluator: the validation engine; its best metric decides which epoch is the best.
        plan: the plan ids; weights and plan belong together.
        restart: start over though there is a last state.

    Raises:
        ConfigError: when the run starts and the folder holds an unfinished training of another plan.
    """

    def __init__(
        self,
        ckpt_dir: str,
        network: nn.Module,
        optimizer: Optimizer,
        lr_scheduler: LRScheduler,
        loader: DaliLoader,
        evaluator: Engine,
        plan: Mapping[str, Any],
        restart: bool = False,
    ) -> None:
        self.ckpt_dir = Path(ckpt_dir)
        self.network = network
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.loader = loader
        self.evaluator = evaluator
        self.plan = dict(plan)
        self.restart = restart
        self._has_trained = False

    def attach(self, engine: Engine) -> None:
        """Register with a MONAI trainer."""
        engine.add_event_handler(Events.STARTED, self.resume)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)
        engine.add_event_handler(Events.COMPLETED, self.finish)

    def resume(self, engine: Engine) -> None:
        """Load the last state, if there is one."""
        self.ckpt_dir.mkdir(parents=True, exist_ok=True)
        state = None if self.restart else self._load()
        if state is None:
            return
        differences = plan_differences(state["plan"], self.plan)
        if differences:
            raise ConfigError(
                f"{self.ckpt_dir} holds a training of another plan ({'; '.join(differences)}). "
                "Choose another --ckpt_dir, or start over with --restart True."
            )
        self.network.load_state_dict(state["network"])
        rates = self._replayed_rates(state["lr_scheduler"]["last_epoch"])
        self.optimizer.load_state_dict(state["optimizer"])
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group.update(rate)
        self.loader.load_state_dict(state["loader"])
        scaler = getattr(engine, "scaler", None)
        if scaler is not None and state["scaler"] is not None:
            scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["rng"])
        self.evaluator.state.best_metric = state["best_metric"]
        self.evaluator.state.best_metric_epoch = state["best_metric_epoch"]
        engine.state.epoch = state["epoch"]
        engine.state.iteration = state["epoch"] * engine.state.epoch_length
        if engine.state.epoch >= engine.state.max_epochs:
            logger.info(
                "the training in %s has finished (%d epochs); raise --epochs to go on, "
                "or start over with --restart True",
                self.ckpt_dir,
                engine.state.epoch,
            )
        else:
            logger.info("going on after epoch %d of %s", engine.state.epoch, self.ckpt_dir / LAST)

    def save(self, engine: Engine) -> None:
        """Save the last state, and the model if this epoch was the best."""
        self._has_trained = True
        if self.evaluator.state.best_metric_epoch == engine.state.epoch:
            self._save_model(engine, self.evaluator.state.best_metric)
        scaler = getattr(engine, "scaler", None)
        state = {
            "epoch": engine.state.epoch,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "lr_scheduler": self.lr_scheduler.state_dict(),
            "loader": self.loader.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
            "rng": torch.get_rng_state(),
            "best_metric": float(self.evaluator.state.best_metric),
            "best_metric_epoch": self.evaluator.state.best_metric_epoch,
            "plan": self.plan,
        }
        last = self.ckpt_dir / LAST
        with atomic_write(last) as file:
            torch.save(state, file)
            if last.exists():
                os.replace(last, self.ckpt_dir / PREVIOUS)

    def _replayed_rates(self, num_steps: int) -> list[dict[str, float]]:
        """Bring the schedule to where it was, step by step.

        Its saved state would bring back the old length; so, with more epochs than before, the rates are those of
        the longer schedule.
        """
        with warnings.catch_warnings():
            # torch expects an optimizer step before each
            warnings.simplefilter("ignore", UserWarning)
            for _ in range(num_steps):
                self.lr_scheduler.step()
        return [
            {name: group[name] for name in ("lr", "initial_lr") if name in group}
            for group in self.optimizer.param_groups
        ]

    def finish(self, engine: Engine) -> None:
        """Without any validation the final weights are the model."""
        if self._has_trained and self.evaluator.state.best_metric_epoch < 0:
            logger.warning("no epoch was validated; %s holds the final weights", MODEL)
            self._save_model(engine, None)

    def _save_model(self, engine: Engine, score: float | None) -> None:
        facts = {
            "epoch": engine.state.epoch,
            "val_mean_dice": None if score is None else float(score),
        }
        save_weights(self.ckpt_dir / MODEL, inference_state_dict(self.network), self.plan, facts)

    def _load(self) -> dict[str, Any] | None:
        """The newest state that can be read, on the CPU, or None where there is none."""
        for name in (LAST, PREVIOUS):
            path = self.ckpt_dir / name
            if not path.is_file():
                continue
            try:
                return torch.load(path, map_location="cpu", weights_only=True)
            except Exception as error:  # noqa: BLE001 - torch raises many kinds for a damaged file
                logger.warning(
                    "%s is damaged (%s); trying the generation before", path, first_line(error)
                )
                # it must not take the place of the good generation at the next save
                os.replace(path, path.with_suffix(".damaged"))
        return None
