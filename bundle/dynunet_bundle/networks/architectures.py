"""The networks that a plan can name.

Stored on disk: the names, as ``architecture`` in plans, packages and ``model.json``. They are names of their own, not
import paths, so that a file may move and a plan from elsewhere names no code.
"""

from collections.abc import Sequence
from typing import Any

from monai.networks.nets import DynUNet
from torch import nn

from dynunet_bundle.errors import PlanError
from dynunet_bundle.networks.dynunet import DeepSupervisedDynUNet
from dynunet_bundle.networks.residual import ResidualEncoderUNet
from dynunet_bundle.planning.planner import ARCHITECTURES

OLD_NAMES = {"dynunet_bundle.residual.ResidualEncoderUNet": "ResidualEncoderUNet"}
"""Names that version 0.1.0 wrote into plans."""


def training_network(architecture: str, **settings: Any) -> nn.Module:
    """The network in the form that is trained, with heads for deep supervision; ``network_def`` of train.json.

    Args:
        architecture: the plan's id, ``DynUNet`` or ``ResidualEncoderUNet``.
        **settings: arguments of ``DeepSupervisedDynUNet``, which both take.

    Raises:
        PlanError: for another architecture.
    """
    require_architecture(architecture)
    kind = DeepSupervisedDynUNet if architecture == ARCHITECTURES[False] else ResidualEncoderUNet
    return kind(**settings)


def plain_network(architecture: str, strides: Sequence[Any], **settings: Any) -> nn.Module:
    """The network without heads: MONAI's own DynUNet, or ours; ``network_def`` of inference.json and evaluate.json.

    Args:
        architecture: as ``training_network``.
        strides: stride into each level.
        **settings: further arguments of MONAI's DynUNet, without those of upsampling and deep supervision.

    Raises:
        PlanError: for another architecture.
    """
    require_architecture(architecture)
    if architecture == ARCHITECTURES[False]:
        settings["upsample_kernel_size"] = list(strides[1:])
        return DynUNet(strides=strides, deep_supervision=False, **settings)
    return ResidualEncoderUNet(strides=strides, deep_supervision=False, **settings)


def require_architecture(name: str) -> None:
    """Refuse a network that is not in the table.

    Raises:
        PlanError: with the line to write.
    """
    if name in OLD_NAMES:
        raise PlanError(
            f'architecture is "{name}", a name of version 0.1.0. Write "architecture": "{OLD_NAMES[name]}" in the '
            "overlay, and in the plan of model.json beside the weights."
        )
    if name not in ARCHITECTURES.values():
        known = ", ".join(ARCHITECTURES.values())
        raise PlanError(f'architecture is "{name}". Choose one of {known}, or plan again.')
