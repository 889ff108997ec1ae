"""``docs/README.md`` of a bundle: the sections required by the Model Zoo, filled from plan, training and scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from dynunet_bundle.delivery.package.facts import Facts
from dynunet_bundle.delivery.package.metadata import (
    METHOD_REFERENCE,
    describe_model,
    modality,
    package_versions,
)
from dynunet_bundle.delivery.package.model_card_images import input_text, picture_types
from dynunet_bundle.delivery.package.model_card_recipe import recipe_texts
from dynunet_bundle.drawing.text_table import number_cell
from dynunet_bundle.errors import counted
from dynunet_bundle.labels.extents import MM3_PER_ML

TEMPLATE = Path(__file__).with_name("model_card.md.jinja")
NOT_MEASURED = "GPU memory was not measured for this plan."


@dataclass(frozen=True)
class CardContent:
    """Content of a model card.

    Attributes:
        plan: the plan ids, as literals.
        recipe: content of ``train.json`` of the bundle.
        facts: texts about the task.
        version: of the bundle.
        model: content of ``model.json``, or None if there are no weights.
        scores: content of ``scores.json``, or None.
        exports: content of ``export.json``, or None.
        curves: whether ``docs/progress.png`` exists.
        example: whether ``docs/example.png`` exists.
        needs: measured time and memory, or None.
        weights_card: page in the bundle that describes weights of another plan, or None.
    """

    plan: Mapping[str, Any]
    recipe: Mapping[str, Any]
    facts: Facts
    version: str
    model: Mapping[str, Any] | None = None
    scores: Mapping[str, Any] | None = None
    exports: Mapping[str, Any] | None = None
    curves: bool = False
    example: bool = False
    needs: str | None = None
    weights_card: str | None = None


def model_card(content: CardContent) -> str:
    """The text of the card, in Markdown."""
    # the output is Markdown, not HTML that a browser runs
    environment = jinja2.Environment(  # noqa: S701
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    plan, facts = content.plan, content.facts
    types = picture_types(plan, content.model, content.scores)
    return (
        template.render(
            plan=plan,
            recipe=content.recipe,
            description=describe_model(facts),
            has_weights=content.model is not None,
            weights_card=content.weights_card,
            packages=_packages(),
            length=_length(content.recipe, content.model),
            version=content.version,
            origin=_origin(content.model or {}),
            imported=_imported(content.model or {}, facts),
            intended_use=f"Intended use: {facts.intended_use}",
            data_source=facts.data_source,
            cases=_cases(content.model, bool(types)),
            targets_text=", ".join(plan["regions"] or plan["label_names"][1:]),
            modality=modality(plan),
            size=_size(plan, content.model),
            input_text=input_text(plan, types),
            unit="pixel" if types else "voxel",
            distance_unit="px" if types else "mm",
            targets=list(plan["regions"] or plan["label_names"]),
            labels=list(zip(plan["label_values"], plan["label_names"], strict=True)),
            limitations=facts.limitations,
            memory=" ".join(filter(None, (facts.memory, content.needs))) or NOT_MEASURED,
            scores=_score_rows(content.scores),
            scores_of=_scores_of(content.scores),
            mean_dice=number_cell((content.scores or {}).get("mean_dice"), ".4f"),
            curves=content.curves,
            example=content.example,
            exports=_export_rows(content.exports),
            exports_machine=_machine(content.exports),
            references=[METHOD_REFERENCE, *facts.references],
            **recipe_texts(plan, content.recipe, bool(types)),
        ).rstrip()
        + "\n"
    )


def _origin(model: Mapping[str, Any]) -> str:
    """Epoch and validation Dice of the model, as the end of a sentence."""
    parts = []
    if model.get("epoch") is not None:
        parts.append(f"of epoch {model['epoch']}")
    dice = model.get("val_mean_dice")
    if dice is not None:
        parts.append(f"with a Dice of {dice:.4f} on the held-out cases at the network's spacing")
    return " " + " ".join(parts) if parts else ""


def _imported(model: Mapping[str, Any], facts: Facts) -> str:
    """Where imported weights come from; empty for weights of this bundle."""
    origin = model.get("origin")
    if not origin:
        return ""
    details = [f"{name}: {value}" for name, value in origin.items() if name != "framework"]
    return (
        f"The weights were trained with {origin.get('framework')} ({', '.join(details)}) and imported. Authors: "
        f"{facts.authors}. The loss, the optimizer, the schedule and the augmentation below are those of a further "
        "training with this bundle, not those that made the weights."
    )


def _length(recipe: Mapping[str, Any], model: Mapping[str, Any] | None) -> str:
    """Length of the training, from the weights (the command line may have set it), or else from the recipe."""
    source = recipe if model is None else model
    if source.get("epochs") is None or source.get("iterations_per_epoch") is None:
        return "not recorded by the training"
    iterations = counted(source["iterations_per_epoch"], "iteration")
    text = f"{counted(source['epochs'], 'epoch')} of {iterations}"
    if model is not None and model.get("epoch") not in (None, source["epochs"]):
        text += f"; the weights are those of epoch {model['epoch']}"
    return text


def _packages() -> list[str]:
    """Requirements of the bundle in pip's notation."""
    return [f"{name}=={number}" for name, number in package_versions().items()]


def _size(plan: Mapping[str, Any], model: Mapping[str, Any] | None) -> str:
    """Number of the training cases, and what they are."""
    number = ((model or {}).get("training") or {}).get("num_cases")
    kind = "volumes" if plan["spatial_dims"] == 3 else "images"  # noqa: PLR2004 - axes of a volume
    return (
        f"{kind}; their number is not recorded" if number is None else f"{number} labelled {kind}"
    )


def _cases(model: Mapping[str, Any] | None, in_pixels: bool) -> str:
    if model is None:
        return ""
    training = model.get("training") or {}
    if "num_cases" not in training:
        return "How many cases the model was trained on was not recorded."
    lines = [f"Trained on {counted(training['num_cases'], 'case')}."]
    volumes = training.get("volumes_ml") or {}
    if volumes:
        what = (
            "area in the training cases, px²" if in_pixels else "volume in the training cases, ml"
        )
        factor, form = (MM3_PER_ML, ".0f") if in_pixels else (1, ".3g")
        lines += ["", f"| label | {what} |", "|---|---|"]
        for name, span in volumes.items():
            low, high = (f"{end * factor:{form}}" for end in span)
            lines.append(f"| {name} | {low} to {high} |")
    return "\n".join(lines)


def _scores_of(scores: Mapping[str, Any] | None) -> str:
    cases = counted(len((scores or {}).get("cases", ())), "case")
    trained = len((scores or {}).get("trained_cases", ()))
    if trained:
        return f"In native space, on {cases}. The model was trained on {trained} of them, so the scores are too good."
    if "by_fold" in (scores or {}):
        return f"In native space, on {cases}, each by the model of the fold that was not trained on it."
    return f"In native space, on {cases} that the model was not trained on."


def _score_rows(scores: Mapping[str, Any] | None) -> list[Sequence[str]]:
    if not scores:
        return []
    statistics = scores.get("statistics", {})
    rows: list[Sequence[str]] = []
    for name, mean in scores["mean"].items():
        measures = statistics.get(name, {})
        interval = measures.get("dice", {}).get("ci95")
        dice = number_cell(mean, ".4f")
        if interval:
            dice += f" ({interval[0]:.4f} to {interval[1]:.4f})"
        rows.append(
            (
                name,
                str(scores["num_cases"].get(name, "-")),
                dice,
                _distance(measures),
                number_cell(measures.get("nsd", {}).get("mean"), ".4f"),
            )
        )
    return rows


def _distance(measures: Mapping[str, Any]) -> str:
    """Median HD95; in mm unless the cases are plain pictures."""
    found = measures.get("hd95_px") or measures.get("hd95_mm") or {}
    return number_cell(found.get("median"), ".2f")


def _export_rows(exports: Mapping[str, Any] | None) -> list[Sequence[str]]:
    models = [row for row in (exports or {}).get("models", []) if row.get("wall_ms")]
    return [
        (
            row["format"],
            row["precision"],
            f"{row['wall_ms']:.1f}",
            f"{models[0]['wall_ms'] / row['wall_ms']:.2f}",
        )
        for row in models
    ]


def _machine(exports: Mapping[str, Any] | None) -> str:
    machine = (exports or {}).get("machine", {})
    return f"{machine.get('device', 'cpu')} of a machine with {machine.get('processor', 'a processor')}"
