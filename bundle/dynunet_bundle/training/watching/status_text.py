"""The state of trainings as text for people."""

from collections.abc import Sequence

from dynunet_bundle.drawing.text_table import number_cell, text_table
from dynunet_bundle.terminal import clock, printable
from dynunet_bundle.training.watching.status import RunStatus

NO_EPOCH, NO_VALIDATION = "no epoch is done yet", "no validation yet"


def describe_run(status: RunStatus) -> str:
    """Describe one training in a few lines."""
    place = f" with {status.world_size} processes" if (status.world_size or 1) > 1 else ""
    lines = [f"{status.task_name or 'a training'} in {status.folder}{place}: {_state_of(status)}"]
    if status.message:
        lines.append(f"  {status.message}")
    facts = {
        "loss": _loss_of(status),
        "Dice": _dice_of(status),
        "best Dice": _best_of(status),
        "time": _pace_of(status),
        "last sign": f"{ago(status.idle_s)} ({status.updated})",
    }
    if status.folds is not None:
        facts["folds"] = status.folds
    if status.checkpoint_epoch is not None:
        steps = status.checkpoint_iteration
        inside = "" if steps is None else f", iteration {steps}"
        facts["checkpoint"] = f"after epoch {status.checkpoint_epoch}{inside}"
    if status.model_epoch is not None:
        facts["model.pt"] = f"of epoch {status.model_epoch}"
    lines += [f"  {name:11}{text}" for name, text in facts.items()]
    return "\n".join(map(printable, lines))


def _loss_of(status: RunStatus) -> str:
    if status.loss is None and status.learning_rate is None:
        return NO_EPOCH
    rate = number_cell(status.learning_rate, ".2e")
    return f"{number_cell(status.loss, '.4f')}, learning rate {rate}"


def _dice_of(status: RunStatus) -> str:
    if status.dice_epoch is None:
        return NO_VALIDATION
    classes = ", ".join(
        f"{name} {number_cell(dice, '.3f')}" for name, dice in status.dice_by_class.items()
    )
    return f"{number_cell(status.dice, '.4f')} at epoch {status.dice_epoch} ({classes})"


def _best_of(status: RunStatus) -> str:
    if status.dice_epoch is None:
        return NO_VALIDATION
    if status.best_dice is None:
        return "undefined so far"
    return f"{number_cell(status.best_dice, '.4f')} at epoch {number_cell(status.best_epoch, 'd')}"


def _pace_of(status: RunStatus) -> str:
    if status.epoch_s is None:
        return NO_EPOCH
    parts = [f"{status.epoch_s:.1f} s per epoch"]
    if status.patches_per_second is not None:
        parts.append(f"{status.patches_per_second:.1f} patches/s")
    if status.eta_s is not None:
        parts.append(f"{clock(status.eta_s)} left")
    return ", ".join(parts)


def _state_of(status: RunStatus) -> str:
    done = f"epoch {_epochs_of(status)}".replace("/", " of ")
    if status.is_silent:
        word = "no sign of life" if status.state == "unknown" else "running, but no sign of life"
        return f"{word} for {status.idle_s / 60:.0f} min, {done}"
    # without a status.json only the time of the last write to the log is known
    return f"{'in the log' if status.state == 'unknown' else status.state}, {done}"


def _epochs_of(status: RunStatus) -> str:
    return f"{status.epoch}/{status.epochs or '?'}"


def ago(seconds: float) -> str:
    """``130`` -> ``2 min ago``."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length or (unit == "min" and seconds >= length):
            return f"{seconds / length:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def runs_table(statuses: Sequence[RunStatus]) -> str:
    """A table of several trainings, such as folds, one per row, and the mean of their best scores."""
    head = (
        "folder",
        "state",
        "epoch",
        "loss",
        "Dice",
        "best",
        "at",
        "s/epoch",
        "left",
        "last sign",
    )
    rows = [
        (
            status.folder,
            "silent" if status.is_silent else status.state,
            _epochs_of(status),
            number_cell(status.loss, ".4f"),
            number_cell(status.dice, ".4f"),
            number_cell(status.best_dice, ".4f"),
            number_cell(status.best_epoch, "d"),
            number_cell(status.epoch_s, ".1f"),
            "-" if status.eta_s is None else clock(status.eta_s),
            ago(status.idle_s),
        )
        for status in statuses
    ]
    lines = text_table([head, *rows], left=(0, 1))
    best = [status.best_dice for status in statuses if status.best_dice is not None]
    if best:
        lines.append(f"mean of the best Dice: {sum(best) / len(best):.4f} ({len(best)} of them)")
    return "\n".join(lines)
