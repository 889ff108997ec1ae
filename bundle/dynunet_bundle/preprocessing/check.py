"""Refuse a case that does not fit the plan, with its name, before anything is computed from it."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform

from dynunet_bundle.configs.preflight import require_device
from dynunet_bundle.configs.settings import SETTINGS
from dynunet_bundle.dataset.cases import IMAGE, LABEL, name_of
from dynunet_bundle.dataset.previous_stage import HOW_TO_MAKE, PREVIOUS
from dynunet_bundle.errors import CaseError, ConfigError
from dynunet_bundle.images.read import Volume
from dynunet_bundle.labels.scheme import LabelScheme
from dynunet_bundle.shapes import MAX_VALUE, describe, excerpt, has_shape
from dynunet_bundle.survey.problems import find_mask_problems, find_problems


class CheckCased(MapTransform):
    """Refuse bad images and labels after ``EnsureChannelFirstd``: ``preprocessing`` of train.json and inference.json.

    MONAI silently trains on NaN or shifted labels. Checked are: three spatial axes, number of channels, finite
    values, an image that is not constant; and, if there is a label, equal shape and geometry (no corner off by more
    than 0.1 voxel) and integer values from the plan's list. A float label is rounded. In a cascade the mask of the
    previous stage is required and checked in the same way.

    MONAI Label sets options and the device for each request, and runs no other check of them before it computes.

    Args:
        channel_names: the plan's channels.
        labels: the plan's labels.
        cascade: whether the plan is a cascade.
        options: values of ``displayable_configs``; None checks none.
        device: device of the network; None checks none.

    Raises:
        CaseError: naming the case, the fault and the remedy.
        ConfigError: naming the option that is of a wrong type or out of range, or the device that is not there.
    """

    # class attributes, so that the key of the prepared store (recipe.py) changes only in a cascade
    cascade: bool = False
    class_values: Sequence[int] = ()
    bad_option: str = ""

    def __init__(
        self,
        channel_names: Sequence[str],
        labels: LabelScheme,
        cascade: bool = False,
        options: Mapping[str, Any] | None = None,
        device: str | None = None,
    ) -> None:
        super().__init__((IMAGE, LABEL), allow_missing_keys=True)
        self.num_channels = len(channel_names)
        # not the scheme: names and regions do not affect the prepared store, so its key must not contain them
        self.label_values = list(labels.file_values)
        if cascade:
            # the mask of a network never has the ignore value
            self.cascade, self.class_values = True, list(labels.values)
        # told when a case comes: MONAI hides the text of an error that is raised while it builds parts
        fault = _option_fault(options or {}) or _device_fault(device)
        if fault:
            self.bad_option = fault

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Check one case and return it, its label rounded to uint8, or int32 for larger values.

        Args:
            data: the image, a MetaTensor ``[C, X, Y, Z]``; the label, ``[1, X, Y, Z]``, may be absent.
        """
        if self.bad_option:
            raise ConfigError(self.bad_option)
        checked = dict(data)
        # LoadImaged gives float32; an image from a program, or from MONAI Deploy, has its own type
        checked[IMAGE] = image = checked[IMAGE].to(torch.float32)
        label = checked.get(LABEL)
        case = name_of({**checked, "image": image})
        volumes = _volume(image), None if label is None else _volume(label)
        for problem, remedy in find_problems(*volumes, self.num_channels, self.label_values):
            raise CaseError(case, problem, remedy)
        if self.cascade:
            self._check_previous(case, volumes[0], checked.get(PREVIOUS))
        if label is not None:
            small = self.label_values[-1] <= torch.iinfo(torch.uint8).max
            checked[LABEL] = label.round().to(torch.uint8 if small else torch.int32)
        return checked

    def _check_previous(self, case: str, image: Volume, previous: MetaTensor | None) -> None:
        if previous is None:
            raise CaseError(case, "it has no mask of the previous stage", HOW_TO_MAKE)
        what = "mask of the previous stage"
        for problem, _ in find_mask_problems(image, _volume(previous), self.class_values, what):
            raise CaseError(case, problem, HOW_TO_MAKE)


def _option_fault(options: Mapping[str, Any]) -> str:
    """What is wrong with an option of a client; empty for none. Options that a user added are not known."""
    for name, schema in SETTINGS["displayable_configs"]["properties"].items():
        if name in options and not has_shape(options[name], schema):
            value = excerpt(repr(options[name]), MAX_VALUE)
            return f"the option {name} is {value}. It must be {describe(schema)}."
    return ""


def _device_fault(device: str | None) -> str:
    if device is None:
        return ""
    if not has_shape(device, SETTINGS["device"]):
        value = excerpt(repr(device), MAX_VALUE)
        return f"the option device is {value}. It must be {describe(SETTINGS['device'])}."
    try:
        require_device(device)
    except ConfigError as error:
        return str(error)
    return ""


def _volume(tensor: MetaTensor) -> Volume:
    """A tensor as a Volume, without a copy unless it is on a GPU."""
    return Volume(tensor.as_tensor().cpu().numpy(), np.asarray(tensor.affine))
