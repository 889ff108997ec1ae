"""Which model predicts, and how: the same rules for the command ``predict`` and for ``Predictor``."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynunet_bundle.errors import ConfigError
from dynunet_bundle.files import read_json
from dynunet_bundle.machine.places import BUNDLE
from dynunet_bundle.networks.model_json import (
    CHECKPOINTS,
    MODEL,
    learnt_mirroring,
    missing_weights,
    model_files,
)


@dataclass(frozen=True)
class ModelChoice:
    """Which model predicts, and how.

    Attributes:
        models: packages, their zips, folders of trainings, or files of weights; empty for the weights that an overlay
            names, else those of the bundle.
        config_files: overlays for inference.json.
        device: device of the network, or None for the default.
        checkpoint: ``"best"`` or ``"last"``, the epoch of the weights.
        mirroring: whether to average over the mirrored versions that the training had.
        precision: precision of the network, or None for the default.
    """

    models: Sequence[str | Path] = ()
    config_files: Sequence[str] = ()
    device: str | None = None
    checkpoint: str = "best"
    mirroring: bool = False
    precision: str | None = None

    def weights(self) -> list[Path]:
        """The file of weights, or those of an ensemble.

        Raises:
            BundleError: if there are none, or as ``model_files``.
        """
        if self.models:
            # the first file of an ensemble names the others, which may be given, too
            named = (file for model in self.models for file in model_files(Path(model)))
            weights = list(dict.fromkeys(named))
        else:
            given: Any = None
            for overlay in self.config_files:
                # it imports MONAI
                from dynunet_bundle.configs.overrides import CONFIG_SCHEMA

                given = read_json(overlay, ConfigError, CONFIG_SCHEMA).get("weights_file", given)
            shipped = BUNDLE / "models" / MODEL
            if given is None:
                given = model_files(shipped) if shipped.is_file() else shipped
            weights = [Path(file) for file in (given if isinstance(given, list) else [given])]
        if self.checkpoint == "last":
            weights = [file.with_name(CHECKPOINTS[0]) for file in weights]
        # an overlay may take an exported model
        absent = [file for file in weights if not file.is_file()]
        if absent and not self.config_files:
            raise missing_weights(absent[0])
        return weights

    def overrides(self, weights: Sequence[Path]) -> dict[str, Any]:
        """Values by id for inference.json.

        Args:
            weights: result of ``weights``, or the weights of the previous stage of a cascade.
        """
        given = {"device": self.device, "precision": self.precision}
        overrides: dict[str, Any] = {
            name: value for name, value in given.items() if value is not None
        }
        if self.models or self.checkpoint == "last":
            overrides["weights_file"] = weights[0] if len(weights) == 1 else list(weights)
        if self.mirroring:
            # also for a model without mirroring: the config then refuses it with a reason
            overrides["displayable_configs#mirroring"] = True
            axes = learnt_mirroring(weights[0])
            overrides |= {"mirror_axes": axes} if axes else {}
        return overrides
