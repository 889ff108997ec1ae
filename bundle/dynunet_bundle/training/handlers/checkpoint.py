"""Checkpoints from which a training resumes exactly, as if it had never stopped.

Stored on disk, in ``ckpt_dir``:

    model.pt                       weights of the best epoch, as inference loads them
    model.json                     their plan, score, SHA-256 and versions
    checkpoint_last.pt             the full state of the training
    checkpoint_last.previous.pt    the state before that
    earlier_run_1/ ...             files that --restart moved aside
"""

import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from dynunet_bundle.configs.recipe import command_facts
from dynunet_bundle.errors import ConfigError
from dynunet_bundle.feed.loader import DaliLoader
from dynunet_bundle.networks.dynunet import inference_state_dict, unwrapped
from dynunet_bundle.networks.model_json import MODEL
from dynunet_bundle.networks.weights import save_weights
from dynunet_bundle.training.handlers.generations import (
    LAST,
    PREVIOUS_NAME,
    load_generation,
    save_generation,
    set_aside,
)
from dynunet_bundle.training.handlers.given_weights import GivenWeights, begin_round
from dynunet_bundle.training.handlers.identity import (
    case_facts,
    learnt_from,
    optimizer_kind,
    require_same_training,
    state_checksum,
    training_facts,
    update_length,
)
from dynunet_bundle.training.handlers.position import log_position, replay_schedule
from dynunet_bundle.training.handlers.random_state import random_state, restore_random_state
from dynunet_bundle.training.process.distributed import equal_in_all_ranks, is_started_again

FACTS = "model.json"
STRATEGIES = ("last_and_best", "last_only", "none")

logger = logging.getLogger(__name__)


class CheckpointHandler:
    """Save the last state and the best model, and resume: ``train#checkpoint`` of train.json.

    A training that is started again with the same folder resumes where it stopped, even within an epoch; a finished
    one does nothing. Attach it after the validation and the schedule. MONAI's CheckpointSaver stores neither the
    position of the feed nor random states, and writes in place.

    Given weights (``GivenWeights``: those of MONAI Label, or of a federation's server) start a new training: existing
    files are then moved aside, as with ``restart``. In a later round of a federation the same trainer runs on from the
    weights that it was given, and never from a file.

    Args:
        ckpt_dir: folder of the files.
        network: the network that is trained, wrapped or not.
        averaged: the network that is evaluated and delivered; ``network`` itself without averaging.
        optimizer: its optimizer.
        lr_scheduler: its schedule.
        loader: the feed; its position is part of the state.
        evaluator: the validation engine; its best metric selects the best epoch.
        plan: the plan ids, stored with the weights.
        restart: move the old run aside and start over.
        strategy: ``last_and_best``; ``last_only`` (the model is the last epoch's); ``none`` writes nothing.
        rank: index of this process; only the first writes.
        world_size: number of processes.
        run_files: other files of the run that are moved aside with it, such as its log.
        fold: the fold, noted in model.json.
        pretrained: weights that the training starts from; model.json notes what these have learnt from.
        recipe: what the overlays of this training set; model.json notes it.

    Raises:
        ConfigError: for an unknown strategy; at the start of a run, if the folder holds a training with another plan
            or other cases.
    """

    def __init__(
        self,
        ckpt_dir: str,
        network: nn.Module,
        averaged: nn.Module,
        optimizer: Optimizer,
        lr_scheduler: LRScheduler,
        loader: DaliLoader,
        evaluator: Engine,
        plan: Mapping[str, Any],
        restart: bool = False,
        strategy: str = "last_and_best",
        rank: int = 0,
        world_size: int = 1,
        run_files: Sequence[str] = (),
        fold: int | str | None = None,
        pretrained: str | None = None,
        recipe: Mapping[str, Any] | None = None,
    ) -> None:
        if strategy not in STRATEGIES:
            raise ConfigError(f'checkpoint is "{strategy}". Choose one of {", ".join(STRATEGIES)}.')
        self.ckpt_dir = Path(ckpt_dir)
        self.network = unwrapped(network)
        self.given = GivenWeights(network)
        self.averaged = averaged
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.loader = loader
        self.evaluator = evaluator
        self.plan = dict(plan)
        # torchrun and SLURM restart a training with the same command
        self.restart = restart and not is_started_again()
        self.strategy = strategy
        self.is_main = rank == 0
        self.world_size = world_size
        self.run_files = [Path(file) for file in run_files]
        self.fold = fold
        self.pretrained = pretrained
        self.recipe = dict(recipe or {})
        self._learnt_from: dict[str, Any] | None = None
        self._has_trained = False
        self._random: dict[str, Any] | None = None

    def attach(self, engine: Engine) -> None:
        """Register with a MONAI trainer."""
        engine.add_event_handler(Events.STARTED, self.resume)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)
        engine.add_event_handler(Events.COMPLETED, self.finish)

    def resume(self, engine: Engine) -> None:
        """Load the last state, if there is one and no weights were given."""
        is_given = self.given.came(engine)
        if engine.state.iteration > 0:
            begin_round(self.averaged, self.lr_scheduler)
            return
        if self.strategy == "none":
            return
        self.ckpt_dir.mkdir(parents=True, exist_ok=True)
        is_new = self.restart or is_given
        if is_new or (state := self._load_everywhere()) is None:
            self._set_aside()
            return
        require_same_training(state, self.plan, self.loader, self.ckpt_dir)
        self._find_position(engine, state)
        self._load_parts(engine, state)
        if self.is_main:
            best, epochs = state["best_metric_epoch"], max(engine.state.max_epochs, state["epoch"])
            update_length(self.ckpt_dir / FACTS, best, epochs)

    def save(self, engine: Engine) -> None:
        """At the end of an epoch, save the state, and the model if this epoch is the best."""
        if self.strategy == "none":
            return
        self._has_trained = True
        is_best = self.evaluator.state.best_metric_epoch == engine.state.epoch
        if self.strategy == "last_only":
            self._save_model(engine, None)
        elif is_best:
            self._save_model(engine, self.evaluator.state.best_metric)
        self.save_state(engine, epoch=engine.state.epoch)

    def save_state(self, engine: Engine, epoch: int, is_unfinished: bool = False) -> None:
        """Save the full state.

        Args:
            engine: the trainer.
            epoch: number of completed epochs.
            is_unfinished: whether all iterations of the next epoch are done too, but not the steps after them, such
                as the validation; a resumed training then begins with those steps.
        """
        if not self.is_main or self.strategy == "none":
            return
        scaler = getattr(engine, "scaler", None)
        averages = self.averaged is not self.network
        state = {
            "epoch": epoch,
            "iteration": engine.state.iteration,
            "iterations_per_epoch": engine.state.epoch_length,
            "is_unfinished": is_unfinished,
            "world_size": self.world_size,
            # the name under which MONAI Label looks for weights in a file
            "model": self.network.state_dict(),
            "averaged": self.averaged.state_dict() if averages else None,
            "optimizer": self.optimizer.state_dict(),
            "optimizer_kind": optimizer_kind(self.optimizer),
            "lr_scheduler": {"last_epoch": self.lr_scheduler.last_epoch},
            "loader": self.loader.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
            "random": self._random if is_unfinished else random_state(),
            "epoch_losses": [float(loss) for loss in getattr(engine.state, "epoch_losses", [])],
            "best_metric": float(self.evaluator.state.best_metric),
            "best_metric_epoch": self.evaluator.state.best_metric_epoch,
            "plan": self.plan,
            "cases": case_facts(self.loader),
        }
        save_generation(self.ckpt_dir, state)

    def remember_random_state(self) -> None:
        """Keep the random state after the last iteration of an epoch, before a validation draws from it."""
        self._random = random_state()

    def finish(self, engine: Engine) -> None:
        """Save the final weights as the model if no epoch was validated."""
        validated = self.evaluator.state.best_metric_epoch >= 0
        is_due = self._has_trained or not (self.ckpt_dir / MODEL).is_file()
        if is_due and self.strategy == "last_and_best" and not validated:
            logger.warning("no epoch was validated: %s holds the final weights", MODEL)
            self._save_model(engine, None)
        if self.is_main and self.strategy != "none":
            score, epoch = self.evaluator.state.best_metric, self.evaluator.state.best_metric_epoch
            told = f": mean Dice {score:.4f} at epoch {epoch}" if validated else ""
            logger.info("the model is %s%s", self.ckpt_dir / MODEL, told)

    def _load_everywhere(self) -> dict[str, Any] | None:
        """The newest state, equal in all processes; the first process reads first, as it may move a damaged file."""
        state = load_generation(self.ckpt_dir, is_main=True) if self.is_main else None
        equal_in_all_ranks(0)
        if not self.is_main:
            state = load_generation(self.ckpt_dir, is_main=False)
        if not equal_in_all_ranks(0 if state is None else state_checksum(state)):
            raise ConfigError(
                f"the processes read different states of the training from {self.ckpt_dir}. All machines must see "
                "the same folder: choose one on a shared disk."
            )
        return state

    def _set_aside(self) -> None:
        """Move an earlier training aside. Weights, which may have come with the bundle and be in use, are copied."""
        if not self.is_main:
            return
        states = [self.ckpt_dir / name for name in (LAST, PREVIOUS_NAME)]
        files = [self.ckpt_dir / name for name in (MODEL, FACTS)]
        if any(file.is_file() for file in states):
            files += [*states, *self.run_files]
        aside = set_aside(files, self.ckpt_dir, keep=(MODEL, FACTS))
        if aside is not None:
            logger.info("starting over; what %s held is kept in %s", self.ckpt_dir, aside)

    def _load_parts(self, engine: Engine, state: Mapping[str, Any]) -> None:
        if (state["averaged"] is None) != (self.averaged is self.network):
            then = "without" if state["averaged"] is None else "with"
            raise ConfigError(
                f"{self.ckpt_dir} holds a training {then} averaged weights (ema_decay). "
                "Keep the old setting, or start over with --restart True."
            )
        self.network.load_state_dict(state["model"])
        if state["averaged"] is not None:
            self.averaged.load_state_dict(state["averaged"])
        num_steps = state["lr_scheduler"]["last_epoch"]
        by_iteration = num_steps == state["iteration"]
        self._load_optimizer(state, engine.state.iteration if by_iteration else num_steps)
        # the stored number, unless the world size or the epoch length has changed
        self.loader.load_state_dict({**state["loader"], "iteration": engine.state.iteration})
        scaler = getattr(engine, "scaler", None)
        if scaler is not None and state["scaler"] is not None:
            scaler.load_state_dict(state["scaler"])
        restore_random_state(state["random"])
        self.evaluator.state.best_metric = state["best_metric"]
        self.evaluator.state.best_metric_epoch = state["best_metric_epoch"]

    def _load_optimizer(self, state: Mapping[str, Any], num_steps: int) -> None:
        """Load the optimizer's state but keep its current settings, such as the rates of a longer schedule."""
        then, now = state["optimizer_kind"], optimizer_kind(self.optimizer)
        if then != now:
            raise ConfigError(
                f"{self.ckpt_dir} holds a training with another optimizer ({then}; now {now}). "
                "Keep the old one, or start over with --restart True."
            )
        replay_schedule(self.lr_scheduler, num_steps)
        settings = [
            {name: value for name, value in group.items() if name != "params"}
            for group in self.optimizer.param_groups
        ]
        self.optimizer.load_state_dict(state["optimizer"])
        for group, own in zip(self.optimizer.param_groups, settings, strict=True):
            group.update(own)

    def _find_position(self, engine: Engine, state: Mapping[str, Any]) -> None:
        length = engine.state.epoch_length
        done = state["iteration"] - state["epoch"] * state["iterations_per_epoch"]
        engine.state.epoch = state["epoch"]
        engine.state.epoch_losses = []
        same_steps = (self.world_size, length) == (
            state["world_size"],
            state["iterations_per_epoch"],
        )
        if not same_steps:
            if state["world_size"] != self.world_size:
                logger.warning(
                    "the training ran in %d processes and resumes in %d, at the start of the next epoch",
                    state["world_size"],
                    self.world_size,
                )
            # restart a partly done epoch; complete an epoch of which all iterations are done
            engine.state.iteration = (engine.state.epoch + int(state["is_unfinished"])) * length
            if state["is_unfinished"]:
                engine.state.epoch_losses = state["epoch_losses"]
                engine.add_event_handler(Events.STARTED, self._complete_epoch)
        elif state["is_unfinished"]:
            engine.state.iteration = state["iteration"]
            engine.state.epoch_losses = state["epoch_losses"]
            # added while this event's handlers run, so it runs after all of them
            engine.add_event_handler(Events.STARTED, self._complete_epoch)
        else:
            engine.state.iteration = state["iteration"]
            engine.state.epoch_losses = state["epoch_losses"] if done else []
        log_position(engine, self.ckpt_dir, done if same_steps else 0)

    def _complete_epoch(self, engine: Engine) -> None:
        """Run the end of an epoch, which was skipped when the training was stopped."""
        engine.state.epoch += 1
        with warnings.catch_warnings():
            # the optimizer has stepped in the stopped process
            warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
            engine.fire_event(Events.EPOCH_COMPLETED)

    def _save_model(self, engine: Engine, score: float | None) -> None:
        if not self.is_main:
            return
        if self._learnt_from is None:
            validation = self.evaluator.data_loader.dataset
            self._learnt_from = learnt_from(self.loader, validation, self.fold, self.pretrained)
        facts = {
            "epoch": engine.state.epoch,
            # with fold "all" there are no held-out cases, and the score is that of training cases
            "val_mean_dice": float(score)
            if score is not None and self._learnt_from["held_out"]
            else None,
            **training_facts(engine, self.loader, self.plan["label_names"]),
            "learnt_from": self._learnt_from,
            "recipe": self.recipe,
            "made_with": command_facts(),
        }
        save_weights(self.ckpt_dir / MODEL, inference_state_dict(self.averaged), self.plan, facts)
