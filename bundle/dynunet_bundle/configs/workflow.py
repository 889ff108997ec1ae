"""Load a config of the bundle from Python, as the scripts do."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser, ConfigWorkflow

from dynunet_bundle.configs.lint import require_data
from dynunet_bundle.configs.overrides import known_ids, read_overlay, top_level
from dynunet_bundle.errors import ConfigError, find_user_error


class BundleWorkflow(ConfigWorkflow):
    """MONAI's workflow whose ``run`` raises a user error as itself, not as "Failed to evaluate"."""

    def run(self) -> Any:
        """Run the config.

        Raises:
            BundleError: for whatever the user can mend.
        """
        try:
            return super().run()
        except Exception as error:
            user_error = find_user_error(error)
            if user_error is None:
                raise
            raise user_error from error


def load_workflow(
    bundle_root: str | Path,
    config: str,
    overlays: Sequence[str] = (),
    overrides: Mapping[str, Any] | None = None,
) -> ConfigWorkflow:
    """Read a config with overlays and overrides, and initialize it.

    An overlay may hold ids that this config has no use for (quick.json sets an optimizer, which inference.json
    lacks); those are left out, so that one overlay serves training and inference.

    Args:
        bundle_root: the bundle folder.
        config: name of the config in ``configs``.
        overlays: further config files, later ones win.
        overrides: values by id; they win over all files.

    Returns:
        The initialized workflow; call its ``run``.

    Raises:
        ConfigError: if an overlay is missing or malformed, names an id that no config has, or lies outside ``configs``
            and brings code of its own (SECURITY.md).
    """
    configs = Path(bundle_root).resolve() / "configs"
    known = known_ids(configs)
    own_ids = set(ConfigParser.load_config_file(str(configs / config)))
    content: dict[str, Any] = {}
    for overlay in overlays:
        ids = read_overlay(overlay, known)
        require_data(overlay, ids, configs)
        content |= {key: value for key, value in ids.items() if top_level(key) in own_ids}
    merged = next((key for key in content if key.startswith("+")), None)
    if merged:
        # MONAI merges into lists when it reads files, but an override replaces them
        raise ConfigError(
            f'an overlay sets "{merged}", which only "python -m monai.bundle run" can merge.'
        )
    workflow = BundleWorkflow(
        config_file=str(configs / config),
        workflow_type="train" if "train" in own_ids else "infer",
        bundle_root=str(configs.parent),
        **{**content, **(overrides or {})},
    )
    workflow.initialize()
    return workflow
