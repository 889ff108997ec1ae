"""Errors of a single case: they name the case, and no metadata of its image.

The text of an unexpected exception may hold the name of a patient. So it is left out, except under MONAI_DEBUG.
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dynunet_bundle.dataset.cases import (
    FETCH,
    NAME,
    all_files,
    image_files,
    is_dead_link,
    is_dicom_case_file,
    is_in_memory,
    name_of,
)
from dynunet_bundle.errors import (
    BundleError,
    CaseError,
    FailedStepError,
    first_line,
    place_of,
    ran_out_of_memory,
)

APPLYING = re.compile(r"applying transform <?(?:function )?(?:[\w<>]+\.)*(\w+)")
"""MONAI's message for a failed transform, with its class."""

DEBUG_VARIABLE = "MONAI_DEBUG"
"""Environment variable of MONAI. If it is set, errors of transforms are raised as they are."""


def apply_to_case(
    case: Mapping[str, Any], transform: Callable[[Mapping[str, Any]], Any]
) -> dict[str, Any]:
    """Run the preprocessing on one case. Each error names the case, and no metadata of the image.

    Args:
        case: paths of the raw files, or the image as a MetaTensor.
        transform: the composed preprocessing.

    Returns:
        The transformed dictionary.

    Raises:
        CaseError: if a file is damaged, or memory runs out.
        BundleError: any error for users that a transform raised.
        FailedStepError: any other error of a transform; with MONAI_DEBUG=1 it is raised as it is.
    """
    name = name_of(case)
    try:
        return transform({**case, NAME: name})
    except BundleError:
        raise
    except Exception as error:
        cause = _first_cause(error)
        if isinstance(cause, BundleError):
            raise cause from None
        if _failed_step(error) == "LoadImaged" or ran_out_of_memory(error):
            raise unreadable(case, error) from None
        if _is_debugging():
            raise
        raise failed_step_error(name, error) from None


def unreadable(case: Mapping[str, Any], error: BaseException) -> CaseError:
    """The error for a case with an unreadable file, with the first cause as its reason and without folder names."""
    cause = _first_cause(error)
    if is_in_memory(case):
        return too_large(name_of(case), first_line(cause))
    files = list(all_files(case).values())
    series = [file for file in files if is_dicom_case_file(file)]
    paths = [Path(file) for file in files if file not in series]
    missing = [path for path in paths if not path.exists()]
    if missing:
        return _missing(case, missing)
    if series:
        # the text of pydicom's errors may hold a value of the header
        reason = place_of(cause)
        if ran_out_of_memory(error):
            return too_large(name_of(case), reason)
        problem = f"cannot read its DICOM series ({reason})"
        return CaseError(name_of(case), problem, "Send the series again.")
    reason = first_line(cause)
    for path in paths:
        # the name of a folder may be a patient's, and the message is written to run.json
        folder = f"{path.parent}{os.sep}"
        reason = reason.replace(folder, "").replace(repr(folder)[1:-1], "")
    if ran_out_of_memory(error):
        return too_large(name_of(case), reason)
    return CaseError(
        name_of(case),
        f"cannot read {', '.join(path.name for path in paths)} ({type(cause).__name__}: {reason})",
        "Replace the damaged file.",
    )


def _missing(case: Mapping[str, Any], files: Sequence[Path]) -> CaseError:
    """The error for a case that lacks files, with the numbers of its missing channels."""
    images = image_files(case)
    channels = [str(number) for number, file in enumerate(images) if Path(file) in files]
    lacks = f"channel {', '.join(channels)} is missing: " if channels and len(images) > 1 else ""
    problem = f"{lacks}cannot find {', '.join(file.name for file in files)}"
    if any(map(is_dead_link, files)):
        return CaseError(name_of(case), f"{problem}, the target of a link", FETCH.strip())
    remedy = "Add the file, or move the case away." if lacks else "Correct its name."
    return CaseError(name_of(case), problem, remedy)


def too_large(name: str, reason: str, size: str = "it") -> CaseError:
    """The error for a case that needs more memory than is available.

    Args:
        name: name of the case.
        reason: text of the exception.
        size: the object that did not fit into memory.
    """
    return CaseError(
        name,
        f"there is not enough memory for {size} ({reason})",
        "Use a machine with more memory, a lower sw_batch_size, or a crop of the image.",
    )


def failed_step_error(name: str, error: BaseException) -> FailedStepError:
    """The error for a case on which a transform failed unexpectedly, without the text of the exception.

    Args:
        name: name of the case.
        error: exception of the composed transforms.
    """
    step = _failed_step(error) or "a step"
    return FailedStepError(
        name,
        f"{step} failed ({place_of(_first_cause(error))})",
        f"Report this line. {DEBUG_VARIABLE}=1 shows the whole error, which may name the patient.",
    )


def is_failed_step(error: BaseException) -> bool:
    """Whether composed transforms raised an error."""
    return _failed_step(error) is not None


def _failed_step(error: BaseException | None) -> str | None:
    """Class of the innermost transform that MONAI says it was applying, or None."""
    step = None
    while error is not None:
        found = APPLYING.match(str(error))
        step = found[1] if found else step
        error = error.__cause__
    return step


def _is_debugging() -> bool:
    # MONAI is loaded already, since it ran the transforms
    from monai.utils import MONAIEnvVars

    return bool(MONAIEnvVars.debug())


def _first_cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error
