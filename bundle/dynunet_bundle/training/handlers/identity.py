"""What identifies a training: its optimizer, its cases, its state.

Stored on disk: class names of optimizers and the keys of these facts, in checkpoints and model.json. A checkpoint
can be resumed only if they are equal, so a renamed optimizer class breaks all older checkpoints.
"""

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine
from torch.optim import Optimizer

from dynunet_bundle.dataset.case_marks import case_marks
from dynunet_bundle.dataset.cases import image_files
from dynunet_bundle.errors import ConfigError, some_of
from dynunet_bundle.feed.loader import DaliLoader
from dynunet_bundle.files import write_json
from dynunet_bundle.images.grid import counts_pixels
from dynunet_bundle.networks.model_json import model_facts
from dynunet_bundle.networks.starting_model import starting_weights
from dynunet_bundle.planning.plan import plan_differences
from dynunet_bundle.preprocessing.recipe import image_recipe


def optimizer_kind(optimizer: Optimizer) -> str:
    """Class of an optimizer, class of a wrapped one, and sizes of its parameter groups, as one line."""
    inner = getattr(optimizer, "optimizer", None)
    names = [type(part).__name__ for part in (optimizer, inner) if part is not None]
    sizes = [len(group["params"]) for group in optimizer.param_groups]
    return f"{' of '.join(names)}, parameters {' + '.join(map(str, sizes))}"


def state_checksum(state: Mapping[str, Any]) -> int:
    """CRC-32 of the position and the weights of a state."""
    checksum = state["iteration"]
    for value in state["model"].values():
        # contiguous: weights may be stored channels-last
        checksum = zlib.crc32(value.contiguous().flatten().view(torch.uint8).numpy(), checksum)
    return int(checksum)


def case_facts(loader: DaliLoader) -> dict[str, list[Any]]:
    """Fingerprint of each case: its shape, and a checksum of the stored positions of its classes."""
    return {
        case.name: [list(case.shape), zlib.crc32(Path(case.positions).read_bytes())]
        for case in loader.dataset.cases()
    }


def training_facts(
    engine: Engine, loader: DaliLoader, label_names: Sequence[str]
) -> dict[str, Any]:
    """Facts for predictions and the model card: length of the training, mirroring, ranges of its cases.

    Args:
        engine: the trainer; it has the length as set on the command line.
        loader: the feed.
        label_names: label names of the plan.
    """
    sampling = loader.sampling
    mirror_axes = sampling.augmentation.setting("mirror", "axes", ())
    return {
        "epochs": engine.state.max_epochs,
        "iterations_per_epoch": engine.state.epoch_length,
        # the declaration serves plans of two and of three axes
        "mirror_axes": [axis for axis in mirror_axes if axis < len(sampling.patch_size)],
        "training": training_ranges(loader, label_names),
    }


def update_length(path: Path, epoch: int, epochs: int) -> None:
    """Write the length that a resumed training has now to the JSON of its model.

    Args:
        path: ``model.json``; nothing happens if it is missing or describes a model of another epoch.
        epoch: the best epoch of the training.
        epochs: number of epochs of the training.

    Raises:
        WeightsError: if the JSON is malformed.
    """
    facts = model_facts(path.with_suffix(".pt"))
    if facts.get("epoch") == epoch and facts.get("epochs") != epochs:
        write_json(path, {**facts, "epochs": epochs})


def learnt_from(
    loader: DaliLoader, validation: Any, fold: int | str | None, pretrained: str | None
) -> dict[str, Any]:
    """What weights have learnt from, for the checks of ``inference/model_use.py``.

    Args:
        loader: the feed.
        validation: data set of the validation, or a ``Shard`` of it.
        fold: the fold.
        pretrained: weights that the training starts from; what these have learnt from counts, too.

    Returns:
        ``fold``; ``trained`` and ``held_out``, see ``case_marks``; and the ``preprocessing``, see ``image_recipe``.
    """
    facts = model_facts(starting_weights(Path(pretrained))[0]) if pretrained else {}
    earlier = facts.get("learnt_from")
    held_out = case_marks(getattr(validation, "dataset", validation).data)
    trained = {**(earlier["trained"] if earlier else {}), **case_marks(loader.dataset.data)}
    return {
        "fold": fold,
        "trained": trained,
        "held_out": {name: mark for name, mark in held_out.items() if name not in trained},
        "preprocessing": image_recipe(loader.dataset.transform),
    }


def training_ranges(loader: DaliLoader, label_names: Sequence[str]) -> dict[str, Any]:
    """Ranges over the training cases, used to flag unusual predictions.

    Returns:
        ``num_cases``; and for each class the smallest and largest ``volumes_ml`` and number of ``components`` over
        the cases that contain it. Without classes if the store is older than these facts. If all cases are plain
        pictures, their ``picture_types``.
    """
    cases = loader.dataset.cases()
    ranges: dict[str, Any] = {"num_cases": len(cases)}
    for what in ("volumes_ml", "components"):
        rows = [getattr(case, what) for case in cases]
        columns = zip(*rows, strict=True) if all(rows) else ()
        by_class = zip(label_names[1:], columns, strict=False)
        present = {name: [value for value in values if value > 0] for name, values in by_class}
        ranges[what] = {
            name: [min(values), max(values)] for name, values in present.items() if values
        }
    files = [file for case in loader.dataset.data for file in image_files(case)]
    # of prepared cases the first axis has the slices
    are_flat = all(case.shape[0] == 1 for case in cases)
    if are_flat and all(counts_pixels(file, (1,)) for file in files):
        ranges["picture_types"] = sorted({Path(file).suffix.lower() for file in files})
    return ranges


def case_differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Differences between two results of ``case_facts``, as ``"gone: case_1, case_2 and 3 more"``."""
    kinds = {
        "new": [name for name in now if name not in then],
        "gone": [name for name in then if name not in now],
        "changed": [name for name in now if name in then and then[name] != now[name]],
    }
    return [f"{kind}: {some_of(names)}" for kind, names in kinds.items() if names]


def require_same_training(
    state: Mapping[str, Any], plan: Mapping[str, Any], loader: DaliLoader, ckpt_dir: Path
) -> None:
    """Refuse a checkpoint of a training with another plan or other cases.

    Args:
        state: content of the checkpoint.
        plan: plan of this training.
        loader: feed of this training.
        ckpt_dir: folder of the checkpoint, for the message.

    Raises:
        ConfigError: with the differences.
    """
    for what, differences in (
        ("with another plan", plan_differences(state["plan"], plan)),
        ("on other cases", case_differences(state["cases"], case_facts(loader))),
    ):
        if differences:
            raise ConfigError(
                f"{ckpt_dir} holds a training {what} ({'; '.join(differences)}). "
                "Choose another --ckpt_dir, or start over with --restart True."
            )
