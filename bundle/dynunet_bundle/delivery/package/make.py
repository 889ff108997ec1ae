"""Package a trained model as a separate bundle: one task, literal configs, weights, model card; as folder and zip.

Builds are reproducible: equal inputs give equal bytes (no times, no paths, fixed order of files). MONAI's
``init_bundle`` only creates an empty skeleton.
"""

import logging
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from dynunet_bundle.configs.code_check import require_safe
from dynunet_bundle.configs.overlays import merged_configs
from dynunet_bundle.configs.workflow import load_workflow
from dynunet_bundle.delivery.export.table import REPORT_SCHEMA
from dynunet_bundle.delivery.package.archive import (
    MAX_FILE_BYTES,
    publish,
    require_replaceable,
    staged,
    write_sums,
    write_zip,
)
from dynunet_bundle.delivery.package.code import copy_code
from dynunet_bundle.delivery.package.example import example_picture
from dynunet_bundle.delivery.package.facts import load_facts, states_license
from dynunet_bundle.delivery.package.measure import measured_needs
from dynunet_bundle.delivery.package.metadata import make_metadata, read_changelog
from dynunet_bundle.delivery.package.model_card import CardContent, model_card
from dynunet_bundle.dicom_output.labels import tell_uncoded
from dynunet_bundle.drawing.slices import save_png
from dynunet_bundle.errors import ConfigError
from dynunet_bundle.evaluation.statistics import SCORES_SCHEMA
from dynunet_bundle.files import read_json, sha256_of, write_json
from dynunet_bundle.networks.model_json import (
    CODES_ID,
    PREVIOUS_STAGE,
    learnt_mirroring,
    model_recipe,
    model_settings,
)
from dynunet_bundle.networks.weights import load_weights, read_weights
from dynunet_bundle.planning.plan import plan_from
from dynunet_bundle.shapes import Schema

MEANS_SCHEMA = {**SCORES_SCHEMA, "required": ["cases", "mean", "mean_dice", "num_cases"]}
"""Schema of the scores of a model card."""

NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+){2,}")
"""Package names, the Model Zoo's ``organ_modality_task``; MONAI Label infers from the name what a bundle does."""

LARGE_FILES = """\
large_files:
  - path: "models/model.pt"
    url: "{url}"
    hash_val: "{sha256}"
    hash_type: "sha256"
"""

MODEL, MEMBER = "model.pt", "model_{}.pt"
"""Names of the weights; the members of an ensemble are numbered from 2."""

ABBREVIATIONS = {"mr", "ct", "pet", "us", "mri"}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PackageRequest:
    """Inputs of a package.

    Attributes:
        bundle: the bundle folder used as template.
        overlays: config files over plan and recipe of model.json; later ones win.
        weights: ``model.pt``.
        name: of the package, ``organ_modality_task``.
        output: folder of the result.
        changelog: Markdown with one section ``## X.Y.Z`` per version.
        version: of the package; if None, the newest in the changelog.
        scores: ``scores.json`` of an evaluation, or None.
        facts: JSON for ``load_facts``, or None.
        exports: ``export.json`` of ``dynunet-bundle export``, or None.
        curves: ``progress.png`` of the training, or None.
        measure: whether the card tells time and memory on this machine; it then differs between builds.
        example: an image and its mask, for a picture in the model card, or None.
        weights_url: download address of the weights, needed if they are too large for the Model Zoo.
        trust: accept code in overlays from outside ``configs``; it becomes code of the package.
        members: weights of further folds of the same plan; a prediction averages all.
        previous: weights of the previous stage of a cascade, and those of its further folds.
        draft: if the licence or the authors of imported weights are not stated, write the folder only, without the zip,
            instead of an error.
    """

    bundle: Path
    overlays: Sequence[str]
    weights: Path
    name: str
    output: Path
    changelog: Path
    version: str | None = None
    scores: Path | None = None
    facts: Path | None = None
    exports: Path | None = None
    curves: Path | None = None
    measure: bool = False
    example: tuple[Path, Path] | None = None
    weights_url: str | None = None
    trust: bool = False
    members: Sequence[Path] = ()
    previous: Sequence[Path] = ()
    draft: bool = False

    def __post_init__(self) -> None:
        """Check the name.

        Raises:
            ConfigError: if it does not have the Model Zoo's form.
        """
        if not NAME.fullmatch(self.name):
            raise ConfigError(
                f'--name is "{self.name}". Use organ_modality_task in lower case, '
                "e.g. hippocampus_mr_segmentation."
            )


@dataclass(frozen=True)
class Package:
    """The finished package: folder, zip (None for a draft) and version."""

    folder: Path
    archive: Path | None
    version: str


def make_package(request: PackageRequest) -> Package:
    """Write the folder ``NAME`` and ``NAME_vVERSION.zip``, atomically: after a failure, the old ones are still there.

    Args:
        request: inputs of the package.

    Raises:
        ConfigError: if an input is missing or malformed, or the licence of imported weights is not stated.
        WeightsError: if the weights are missing or damaged, or their plan is not the overlays'.
        OutputError: if the result cannot be written, or would replace something that is not a bundle.
    """
    target = request.output / request.name
    require_replaceable(target)
    changelog = read_changelog(request.changelog)
    version = request.version or next(iter(changelog))
    config_dir = request.bundle / "configs"
    learnt = {**model_settings(request.weights), **model_recipe(request.weights)}
    files: list[str | Path] = [config_dir / "train.json", *request.overlays]
    require_safe(files, config_dir, trust=request.trust, recipe=learnt)
    configs = merged_configs(config_dir, request.overlays, learnt)
    plan = plan_from(configs["train.json"]).overlay()
    network = _loaded_network(request)
    model = read_weights(request.weights)[1]
    origin = (model or {}).get("origin")
    facts = load_facts(request.facts, plan, origin, request.draft)
    content = CardContent(
        plan=plan,
        recipe=configs["train.json"],
        facts=facts,
        version=version,
        model=model,
        scores=_optional(request.scores, MEANS_SCHEMA),
        exports=_optional(request.exports, REPORT_SCHEMA),
        curves=request.curves is not None,
        example=request.example is not None,
        needs=measured_needs(network, plan) if request.measure else None,
    )
    metadata = make_metadata(
        plan, content.facts, display_name(request.name), changelog, version, content.scores
    )
    archive = request.output / f"{request.name}_v{version}.zip"
    is_draft = bool(origin) and not states_license(request.facts)
    _limit_mirroring(configs["inference.json"], (request.weights, *request.members))
    if request.members:
        configs["inference.json"]["weights_file"] = _member_paths(request.members)
    with staged(request.output, request.name) as folder:
        copy_code(request.bundle, folder)
        for name, config in {**configs, "metadata.json": metadata}.items():
            write_json(folder / "configs" / name, config)
        write_docs(folder / "docs", content)
        _add_pictures(request, folder / "docs", plan)
        _add_weights(request, folder, model or {}, plan, _codes_of(configs, model))
        _add_previous(request.previous, folder)
        write_sums(folder)
        if is_draft:
            archive.unlink(missing_ok=True)
        else:
            write_zip(folder, archive)
        publish(folder, target)
    return Package(target, None if is_draft else archive, version)


def _limit_mirroring(config: dict[str, Any], files: Sequence[Path]) -> None:
    """Offer mirroring over the axes that all trainings mirrored; without such axes, do not offer it."""
    known = [axes for axes in map(learnt_mirroring, files) if axes is not None]
    if not known:
        return
    axes = sorted(set(known[0]).intersection(*known))
    config["mirror_axes"] = f"${axes} if @displayable_configs#mirroring else []" if axes else []
    if not axes:
        options = config["displayable_configs"]
        config["displayable_configs"] = {
            name: value for name, value in options.items() if name != "mirroring"
        }


def _add_pictures(request: PackageRequest, folder: Path, plan: Mapping[str, Any]) -> None:
    if request.curves is not None:
        shutil.copyfile(request.curves, folder / "progress.png")
    if request.example is not None:
        save_png(example_picture(*request.example, plan), folder / "example.png")


def write_docs(folder: Path, content: CardContent) -> None:
    """Write the model card and the licence of the data to ``docs``."""
    folder.mkdir(exist_ok=True)
    texts = {
        "README.md": model_card(content),
        "data_license.txt": content.facts.data_license.rstrip() + "\n",
    }
    for name, text in texts.items():
        # a task has the name of its folder, which may have bytes outside UTF-8
        (folder / name).write_bytes(text.encode(errors="backslashreplace"))


def display_name(name: str) -> str:
    """``hippocampus_mr_segmentation`` -> ``"Hippocampus MR segmentation"``."""
    words = [word.upper() if word in ABBREVIATIONS else word for word in name.split("_")]
    return " ".join([words[0][0].upper() + words[0][1:], *words[1:]])


def _codes_of(
    configs: Mapping[str, Mapping[str, Any]], model: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The DICOM codes of classes in a config of the package; warn of classes without one, unless it is for pictures."""
    config = configs["inference.json"]
    if not ((model or {}).get("training") or {}).get("picture_types"):
        tell_uncoded(config["label_names"][1:], config["task_name"], config[CODES_ID])
    return {} if config[CODES_ID] is None else {CODES_ID: config[CODES_ID]}


def _optional(path: Path | None, schema: Schema) -> Mapping[str, Any] | None:
    return None if path is None else read_json(path, ConfigError, schema)


def _loaded_network(request: PackageRequest) -> nn.Module:
    """The network of the overlays with the weights, loaded strictly, which also checks the plan."""
    overrides = {"weights_file": str(request.weights), "device": "cpu"}
    workflow = load_workflow(
        request.bundle,
        "inference.json",
        request.overlays,
        overrides,
        plan=model_settings(request.weights),
        trust=request.trust,
    )
    parsed = workflow.parser.get_parsed_content
    for weights in (request.weights, *request.members):
        load_weights(parsed("network_def"), weights, parsed("plan"))
    network: nn.Module = parsed("network_def")
    return network


def _numbered(members: Sequence[Path]) -> Iterator[tuple[int, Path]]:
    return enumerate(members, start=2)


def _member_paths(members: Sequence[Path]) -> list[str]:
    """The weights of an ensemble as the package's config names them."""
    names = [MODEL, *(MEMBER.format(number) for number, _ in _numbered(members))]
    return [f"$@bundle_root + '/models/{name}'" for name in names]


def _add_previous(files: Sequence[Path], folder: Path) -> None:
    """Add the weights of the previous stage of a cascade, where ``previous_weights`` finds them."""
    if not files:
        return
    place = folder / "models" / PREVIOUS_STAGE
    place.mkdir()
    names = [MODEL, *(MEMBER.format(number) for number, _ in _numbered(files[1:]))]
    for name, file in zip(names, files, strict=True):
        shutil.copyfile(file, place / name)
        facts = dict(read_weights(file)[1] or {})
        if name == MODEL and names[1:]:
            facts["members"] = names[1:]
        write_json((place / name).with_suffix(".json"), facts)


def _add_weights(
    request: PackageRequest,
    folder: Path,
    model: Mapping[str, Any],
    plan: Mapping[str, Any],
    codes: Mapping[str, Any],
) -> None:
    """Add the weights and their JSON, or the address of weights that are too large for the Model Zoo."""
    sha256 = sha256_of(request.weights)
    facts = dict(model) or {"plan": dict(plan), "sha256": sha256}
    if codes:
        facts["recipe"] = {**facts.get("recipe", {}), **codes}
    for number, member in _numbered(request.members):
        target = folder / "models" / MEMBER.format(number)
        shutil.copyfile(member, target)
        own = read_weights(member)[1] or {"plan": dict(plan), "sha256": sha256_of(member)}
        write_json(target.with_suffix(".json"), dict(own))
        facts.setdefault("members", []).append(target.name)
    write_json(folder / "models" / "model.json", facts)
    too_large = request.weights.stat().st_size > MAX_FILE_BYTES
    if request.weights_url:
        (folder / "large_files.yml").write_text(
            LARGE_FILES.format(url=request.weights_url, sha256=sha256), encoding="utf-8"
        )
    if too_large and request.weights_url:
        return
    if too_large:
        logger.warning(
            "the weights in the package have %.0f MB, but the Model Zoo accepts at most 25 MB per file. "
            "Pass --weights_url for the Model Zoo.",
            request.weights.stat().st_size / 1e6,
        )
    shutil.copyfile(request.weights, folder / "models" / "model.pt")
