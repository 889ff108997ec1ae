"""Texts of a model card on the recipe in ``train.json``."""

from collections.abc import Mapping, Sequence
from typing import Any

from dynunet_bundle.planning.channels import normalization_text

LOSSES = {"cross_entropy": "cross-entropy", "focal": "focal loss", "topk": "top-k cross-entropy"}
OPTIMIZER_SETTINGS = ("momentum", "nesterov", "weight_decay")


def recipe_texts(
    plan: Mapping[str, Any], recipe: Mapping[str, Any], in_pixels: bool
) -> dict[str, str]:
    """Texts on preprocessing, network and training.

    Args:
        plan: the plan ids, as literals.
        recipe: content of ``train.json``; a setting that is an expression is left out.
        in_pixels: whether the images are plain pictures, which have no orientation or size in mm.
    """
    return {
        "preprocessing": _preprocessing(plan, in_pixels),
        "patch": sizes(plan["patch_size"]),
        "architecture": plan["architecture"],
        "filters": "-".join(map(str, plan["filters"][: len(plan["strides"])])),
        "deep_supervision": ", deep supervision" if recipe["deep_supervision"] else "",
        "loss": _loss(plan, recipe),
        "optimizer": _optimizer(recipe),
        "learning_rate": _learning_rate(recipe),
        "amp": _precision(recipe),
        "augmentation": ", ".join(name.replace("_", " ") for name in recipe["augmentation"])
        or "none",
    }


def _preprocessing(plan: Mapping[str, Any], in_pixels: bool) -> str:
    first = "arrays are" if in_pixels else f"arrays are reoriented to {plan['axcodes']},"
    schemes = normalization_text(plan["channel_names"], plan["normalization"])
    unit = "pixels of the file" if in_pixels else "mm"
    return (
        f"Preprocessing: {first} cropped to nonzero, normalised ({schemes}) and resampled to "
        f"{sizes(plan['spacing'])} {unit}."
    )


def _precision(recipe: Mapping[str, Any]) -> str:
    if recipe["amp"] is False:
        return "off"
    where = "on" if recipe["amp"] is True else "on a GPU"
    dtype = recipe["amp_dtype"]
    return where if dtype == "auto" else f"{where}, {dtype}"


def sizes(values: Sequence[float]) -> str:
    """``[40, 56.5]`` -> ``"40 x 56.5"``."""
    return " x ".join(f"{value:g}" for value in values)


def _loss(plan: Mapping[str, Any], recipe: Mapping[str, Any]) -> str:
    pixel = recipe["loss"].get("pixel_loss", "cross_entropy")
    over = "the batch" if plan["batch_dice"] else "each patch"
    targets = "regions" if plan["regions"] else "classes"
    return f"Dice over {over} and {LOSSES.get(pixel, pixel)}, of {targets}"


def _optimizer(recipe: Mapping[str, Any]) -> str:
    optimizer = recipe["optimizer"]
    settings = [
        f"{name.replace('_', ' ')} {_plain(optimizer[name])}"
        for name in OPTIMIZER_SETTINGS
        if optimizer.get(name)
    ]
    clip = recipe.get("gradient_clip")
    if clip:
        settings.append(f"gradients clipped to a norm of {clip:g}")
    return ", ".join([str(optimizer["name"]), *settings])


def _learning_rate(recipe: Mapping[str, Any]) -> str:
    schedule = recipe["lr_scheduler"]["name"]
    step = "epoch" if recipe["lr_epoch_level"] else "iteration"
    return f"{recipe['learning_rate']:g}, schedule {schedule}, one step per {step}"


def _plain(value: Any) -> str:
    return "on" if value is True else f"{value:g}" if isinstance(value, float) else str(value)
