"""Every problem of a whole data set at once, before anything is computed from it.

Errors make a case unusable; they are those that preprocessing would refuse, found by the same code. Warnings are
worth a look: headers that readers may understand differently, empty labels, images that occur twice.
"""

import hashlib
import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import nibabel as nib
import numpy as np
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged

from dynunet_bundle.dataset import Case, MsdDataset, apply_to_case
from dynunet_bundle.errors import CaseError
from dynunet_bundle.files import case_name
from dynunet_bundle.preprocessing.check import find_problems
from dynunet_bundle.progress import progress

logger = logging.getLogger(__name__)

MAX_FORM_DIFFERENCE_MM = 1e-2
MAX_SHEAR = 1e-3


@dataclass(frozen=True)
class Finding:
    """One problem of one case.

    Attributes:
        case: name of the case.
        severity: ``"error"`` or ``"warning"``.
        problem: what is wrong.
        remedy: what to do.
    """

    case: str
    severity: str
    problem: str
    remedy: str

    def to_json(self) -> dict[str, str]:
        """The finding as JSON data."""
        return asdict(self)


def check_dataset(dataset: MsdDataset, num_workers: int = 4) -> list[Finding]:
    """Check all cases of a data set.

    Args:
        dataset: the data set; its files exist.
        num_workers: threads.

    Returns:
        All findings, in the order of the cases.
    """
    cases = (*dataset.training, *dataset.test)
    with ThreadPoolExecutor(num_workers) as pool:
        results = list(
            progress(
                pool.map(lambda case: _check_case(case, dataset), cases), "check", total=len(cases)
            )
        )
    findings = [finding for found, _ in results for finding in found]
    return findings + list(_duplicates(cases, [digest for _, digest in results]))


def require_usable(dataset: MsdDataset, num_workers: int = 4) -> None:
    """Check all cases, log every finding, and refuse the data set if there are errors.

    Args:
        dataset: the data set.
        num_workers: threads.

    Raises:
        CaseError: with the first error; all of them are in the log before it.
    """
    findings = check_dataset(dataset, num_workers)
    if findings:
        logger.info(format_findings(findings, len(dataset.training) + len(dataset.test)))
    for finding in findings:
        if finding.severity == "error":
            raise CaseError(finding.case, finding.problem, finding.remedy)


def _check_case(case: Case, dataset: MsdDataset) -> tuple[list[Finding], str]:
    """Findings of one case and a digest of its voxels."""
    name = case_name(case["image"])
    # made here: MONAI's readers remember the files they are reading
    load = Compose(
        [
            LoadImaged(("image", "label"), image_only=True, allow_missing_keys=True),
            EnsureChannelFirstd(("image", "label"), allow_missing_keys=True),
        ]
    )
    try:
        loaded = apply_to_case(case, load)
    except CaseError as error:
        return [Finding(name, "error", error.problem, error.remedy)], ""
    image, label = loaded["image"], loaded.get("label")
    num_labels = len(dataset.label_names)
    findings = [
        Finding(name, "error", problem, remedy)
        for problem, remedy in find_problems(image, label, len(dataset.channel_names), num_labels)
    ]
    if label is not None and not bool((label > 0).any()):
        findings.append(Finding(name, "warning", "its label is empty", "Check that it is meant."))
    for key, path in case.items():
        findings += [
            Finding(name, "warning", f"{key}: {problem}", remedy)
            for problem, remedy in _header_problems(nib.load(path))
        ]
    return findings, hashlib.sha256(image.numpy().tobytes()).hexdigest()


def _header_problems(image: Any) -> Iterator[tuple[str, str]]:
    axes = image.affine[:3, :3] / np.linalg.norm(image.affine[:3, :3], axis=0)
    if not np.allclose(axes.T @ axes, np.eye(3), atol=MAX_SHEAR):
        yield "the axes of its affine are not at right angles", "Resample it to an orthogonal grid."
    if not isinstance(image.header, nib.Nifti1Header):
        return
    qform, qform_code = image.header.get_qform(coded=True)
    sform, sform_code = image.header.get_sform(coded=True)
    if qform_code and sform_code and not np.allclose(qform, sform, atol=MAX_FORM_DIFFERENCE_MM):
        yield "sform and qform differ; the sform is used", "Set the qform to the sform."


def _duplicates(cases: Sequence[Case], digests: Sequence[str]) -> Iterator[Finding]:
    by_digest: dict[str, list[str]] = defaultdict(list)
    for case, digest in zip(cases, digests, strict=True):
        if digest:
            by_digest[digest].append(case_name(case["image"]))
    for names in by_digest.values():
        if len(names) > 1:
            yield Finding(
                names[0],
                "warning",
                f"its image is the same as that of {', '.join(names[1:])}",
                "Keep one, or folds share it.",
            )


def format_findings(findings: Sequence[Finding], num_cases: int) -> str:
    """The findings as a table for a terminal, and a line that counts them."""
    errors = sum(finding.severity == "error" for finding in findings)
    total = f"{num_cases} cases: {errors} error(s), {len(findings) - errors} warning(s)"
    if not findings:
        return total
    first = max(len(finding.case) for finding in findings)
    rows = [
        f"{finding.severity:<8}{finding.case:<{first}}  {finding.problem}. {finding.remedy}"
        for finding in sorted(findings, key=lambda finding: finding.severity)
    ]
    return "\n".join([*rows, total])
