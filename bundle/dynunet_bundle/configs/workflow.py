"""Load a config of the bundle from Python, as the scripts do."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser, ConfigWorkflow

from dynunet_bundle.configs.code_check import require_safe
from dynunet_bundle.configs.command import require_plan, require_results
from dynunet_bundle.configs.literals import literal
from dynunet_bundle.configs.overrides import known_ids, read_overlay, top_level
from dynunet_bundle.configs.recipe import training_recipe
from dynunet_bundle.configs.values import COMMAND_LINE, require_values
from dynunet_bundle.errors import ConfigError, find_user_error
from dynunet_bundle.machine.locks import release_claims

RECIPE = "recipe"


class BundleWorkflow(ConfigWorkflow):
    """MONAI's workflow whose ``run`` raises a user error as itself, not as "Failed to evaluate"."""

    def run(self) -> Any:
        """Run the config.

        Raises:
            BundleError: for errors that the user can correct.
        """
        try:
            return super().run()
        except Exception as error:
            user_error = find_user_error(error)
            if user_error is None:
                raise
            raise user_error from error
        finally:
            release_claims()


def _require_whole(content: Mapping[str, Any]) -> None:
    """Refuse ``+id``: MONAI merges into lists when it reads files, but an override replaces them."""
    merged = next((key for key in content if key.startswith("+")), None)
    if merged:
        raise ConfigError(
            f'an overlay sets "{merged}", which only "python -m monai.bundle run" can merge.'
        )


def load_workflow(
    bundle_root: str | Path,
    config: str,
    overlays: Sequence[str] = (),
    overrides: Mapping[str, Any] | None = None,
    *,
    plan: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    trust: bool = False,
) -> ConfigWorkflow:
    """Read a config with overlays and overrides, and initialize it.

    An overlay may hold ids that this config does not have (quick.json sets an optimizer, which inference.json lacks);
    those are left out, so that one overlay serves training and inference.

    Args:
        bundle_root: the bundle folder.
        config: name of the config in ``configs``.
        overlays: further config files, later ones win.
        overrides: values by id. They win over all files and are literals: a path ``$(date)`` is a path.
        plan: plan ids, such as those of model.json. They replace the defaults of the config, under the overlays, and
            are literals.
        recipe: ids that an overlay of the training set, such as those of model.json. They come after the plan, under
            the overlays, and are checked as an overlay is.
        settings: ids as an overlay sets them, references and expressions included; over files, under ``overrides``.
        trust: accept code in overlays and settings from outside ``configs`` (SECURITY.md).

    Returns:
        The initialized workflow; call its ``run``.

    Raises:
        ConfigError: if an overlay is missing or malformed, has an unknown id, or is outside ``configs`` and contains
            code; for a value of a wrong type or out of range, or a plan whose ids do not fit each other.
    """
    configs = Path(bundle_root).resolve() / "configs"
    ids = _checked_ids(configs, config, overlays, overrides, plan, recipe, settings, trust)
    # only the config of a training has a recipe
    kind = "train" if RECIPE in ids else "infer"
    workflow = BundleWorkflow(str(configs / config), workflow_type=kind, **ids)
    workflow.initialize()
    return workflow


def load_parser(
    bundle_root: str | Path,
    config: str,
    overlays: Sequence[str] = (),
    overrides: Mapping[str, Any] | None = None,
    *,
    plan: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | None = None,
    trust: bool = False,
) -> ConfigParser:
    """Read a config with overlays and overrides, for single components of it.

    Other than ``load_workflow`` it leaves the process as it is: no logging is configured, no random seed is set.

    Args:
        bundle_root: the bundle folder.
        config: name of the config in ``configs``.
        overlays: as for ``load_workflow``.
        overrides: as for ``load_workflow``.
        plan: as for ``load_workflow``.
        recipe: as for ``load_workflow``.
        trust: as for ``load_workflow``.

    Returns:
        The parser; ``get_parsed_content`` builds a component.

    Raises:
        ConfigError: as ``load_workflow``.
    """
    configs = Path(bundle_root).resolve() / "configs"
    ids = _checked_ids(configs, config, overlays, overrides, plan, recipe, None, trust)
    parser = ConfigParser()
    parser.read_config(str(configs / config))
    parser.update(pairs=ids)
    return parser


def _checked_ids(
    configs: Path,
    config: str,
    overlays: Sequence[str],
    overrides: Mapping[str, Any] | None,
    plan: Mapping[str, Any] | None,
    recipe: Mapping[str, Any] | None,
    settings: Mapping[str, Any] | None,
    trust: bool,
) -> dict[str, Any]:
    """Ids that replace those of a config, checked."""
    known = known_ids(configs)
    own = ConfigParser.load_config_files([str(configs / config)])
    contents = [read_overlay(overlay, known) for overlay in overlays]
    require_safe([configs / config, *overlays], configs, settings, trust, recipe)
    content = {key: literal(value) for key, value in (plan or {}).items() if key in own}
    for ids in (recipe or {}, *contents):
        content |= {key: value for key, value in ids.items() if top_level(key) in own}
    content |= settings or {}
    _require_whole(content)
    literals = {key: literal(value) for key, value in (overrides or {}).items()}
    literals.setdefault("bundle_root", literal(configs.parent))
    if RECIPE in own:
        given = training_recipe([recipe or {}, *contents, settings or {}, overrides or {}])
        literals.setdefault(RECIPE, literal(given))
    places = (*map(str, overlays), COMMAND_LINE, COMMAND_LINE)
    for where, ids in zip(places, [*contents, dict(settings or {}), literals], strict=True):
        require_values(ids, where, own)
    require_plan(own, {**content, **literals})
    require_results(own, {**content, **literals})
    return {**content, **literals}
