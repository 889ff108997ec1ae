"""The masks of the previous stage, which a cascade's network gets in addition to the image.

nnU-Net's cascade: a network at low resolution sees most of a case at once; a network at full resolution gets its masks
as further channels and corrects them (Isensee et al., Nature Methods 18, 2021). The masks for training must be of cases
that the first network was not trained on; otherwise the second network learns to trust them too much.
"""

from collections.abc import Sequence
from pathlib import Path

from dynunet_bundle.dataset.cases import Case, absolute, list_images, name_of, require_unique
from dynunet_bundle.errors import CaseError, ConfigError, some_of
from dynunet_bundle.files import case_name

PREVIOUS = "previous"
"""Key of the mask of the previous stage in a case."""

HOW_TO_MAKE = (
    "For training, use RUN/cross_validation/predictions of dynunet-bundle train with the 3d_lowres overlay; for other "
    "images, predict the masks with dynunet-bundle predict and the weights of that training."
)


def with_previous(
    cases: Sequence[Case],
    previous_dir: str | None = None,
    cascade: bool = False,
    tolerant: bool = False,
) -> list[Case]:
    """Add to each case the mask of the previous stage with the same name: ``cases`` of inference.json.

    Args:
        cases: raw cases.
        previous_dir: folder of the masks, each on the grid of its image, with the label values of the data set.
        cascade: whether the plan is a cascade; otherwise nothing is added.
        tolerant: leave cases without a mask to ``CheckCased``, which refuses them one by one, if others have one.

    Returns:
        Cases with the path of the mask as ``previous``.

    Raises:
        ConfigError: if a cascade has no folder of masks, or another plan has one.
        CaseError: if a case has no mask in the folder, or, if tolerant, no case has one.
        DatasetError: if two masks in the folder have the same name.
    """
    if not cascade:
        if previous_dir is not None:
            raise ConfigError(
                f"previous_dir is {previous_dir}, but the plan is not a cascade. Pass the overlay of "
                "dynunet-bundle plan --configuration 3d_cascade_fullres with --config_file, or omit previous_dir."
            )
        return list(cases)
    if previous_dir is None:
        raise ConfigError(
            "the plan is a cascade and needs the masks of its previous stage. Pass their folder as --previous_dir. "
            + HOW_TO_MAKE
        )
    masks = _masks_in(absolute(previous_dir))
    names = [name_of(case) for case in cases]
    missing = [name for name in names if name not in masks]
    if missing and not (tolerant and len(missing) < len(names)):
        others = f", nor have {some_of(missing[1:])}" if missing[1:] else ""
        raise CaseError(
            missing[0],
            f"it has no mask of the previous stage in {previous_dir}{others}",
            HOW_TO_MAKE,
        )
    return [
        {**case, PREVIOUS: masks[name]} if name in masks else case
        for case, name in zip(cases, names, strict=True)
    ]


def _masks_in(folder: Path) -> dict[str, str]:
    """Absolute paths of the masks in a folder, by case."""
    if not folder.is_dir():
        raise ConfigError(f"previous_dir is {folder}, which is not a folder. {HOW_TO_MAKE}")
    files = list_images(folder)
    require_unique([case_name(file) for file in files], str(folder))
    return {case_name(file): str(absolute(file)) for file in files}
