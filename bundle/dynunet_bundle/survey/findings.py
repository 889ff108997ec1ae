"""All problems of a data set at once: errors make a case unusable, warnings should be checked.

Errors are what preprocessing would refuse, found by the same code. Warnings are ambiguous headers, labels that are
empty or off the image, constant channels, duplicate images, and files that dataset.json does not list.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dynunet_bundle.dataset.layouts import DATASET_NAME, DatasetDescription
from dynunet_bundle.drawing.text_table import text_table
from dynunet_bundle.errors import CaseError, counted
from dynunet_bundle.images.nifti import ODD_PIXDIM, unit_mm
from dynunet_bundle.images.read import Volume
from dynunet_bundle.survey.problems import Problem, find_problems

logger = logging.getLogger(__name__)

MAX_FORM_DIFFERENCE_MM = 1e-2  # accepted difference of sform and qform, in each entry
MAX_SHEAR = 1e-3  # accepted cosine of the angle between two axes


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


def case_findings(
    name: str,
    image: Volume,
    label: Volume | None,
    headers: Mapping[str, Any],
    dataset: DatasetDescription,
) -> list[Finding]:
    """Findings of a readable case.

    Args:
        name: name of the case.
        image: ``[C, X, Y, Z]`` and its affine.
        label: ``[1, X, Y, Z]`` and its affine, or None.
        headers: nibabel's image of each file by its role, see ``all_files``; None for files that are not NIfTI.
        dataset: description of the data set.
    """
    problems = find_problems(
        image, label, len(dataset.channel_names) or None, dataset.labels.file_values or None
    )
    findings = [Finding(name, "error", problem, remedy) for problem, remedy in problems]
    if not findings:
        warnings = [
            *_content_warnings(image, label, dataset.labels.ignore_value),
            *_header_warnings(headers),
        ]
        findings = [Finding(name, "warning", problem, remedy) for problem, remedy in warnings]
    return findings


def _content_warnings(
    image: Volume, label: Volume | None, ignore_value: int | None
) -> Iterator[Problem]:
    if label is not None:
        labelled = label.array if ignore_value is None else label.array[label.array != ignore_value]
        if not labelled.size:
            yield "all voxels of its label are ignored", "Leave the case out, or label some voxels."
        elif not (labelled > 0).any():
            yield "its label is empty", "Check that this is intended."
        elif not _touches(label.array[0], image.array, ignore_value):
            yield (
                "its label is wholly outside the nonzero part of its image",
                "Check that they belong together, and that neither is flipped.",
            )
    for index, channel in enumerate(image.array):
        if channel.max() == channel.min():
            yield (
                f"channel {index} of its image is constant ({float(channel.max()):g})",
                "Check that it is empty on purpose.",
            )


def _touches(label: np.ndarray, image: np.ndarray, ignore_value: int | None) -> bool:
    """Whether a labelled voxel is nonzero in a channel of the image."""
    inside = label > 0
    if ignore_value is not None:
        inside &= label != ignore_value
    return any(bool(channel[inside].any()) for channel in image)


def _header_warnings(headers: Mapping[str, Any]) -> Iterator[Problem]:
    for role, image in headers.items():
        if image is not None:
            for problem, remedy in _nifti_warnings(image):
                yield f"{role}: {problem}", remedy


def _nifti_warnings(image: Any) -> Iterator[Problem]:
    axes = image.affine[:3, :3] / np.linalg.norm(image.affine[:3, :3], axis=0)
    if not np.allclose(axes.T @ axes, np.eye(3), atol=MAX_SHEAR):
        yield "the axes of its affine are not orthogonal", "Resample it to an orthogonal grid."
    qform, qform_code = image.header.get_qform(coded=True)
    sform, sform_code = image.header.get_sform(coded=True)
    tolerance = MAX_FORM_DIFFERENCE_MM / unit_mm(image.header)
    if qform_code and sform_code and not np.allclose(qform, sform, atol=tolerance):
        yield "its sform and qform differ; the sform is used", "Set the qform to the sform."
    if not qform_code and not sform_code:
        yield (
            "it has no orientation (qform_code and sform_code are 0); its axes are taken as left, anterior, superior",
            "Check left and right, and write a qform or an sform.",
        )
    for size in dict.fromkeys(image.extra.get(ODD_PIXDIM, ())):
        taken = f"its absolute value, {-size:g} mm, is taken" if size else "it is taken for 1 mm"
        taken = "the sform gives it" if sform_code else taken
        yield (
            f"a voxel size in its header (pixdim) is {size:g}; {taken}",
            "Write the sizes to the header.",
        )


def dataset_findings(dataset: DatasetDescription) -> list[Finding]:
    """Warnings about the list of cases and its names, not about a single case."""
    notes = [*dataset.notes, *_double_channels(dataset.channel_names)]
    return [Finding(DATASET_NAME, "warning", *note) for note in notes]


def _double_channels(names: Sequence[str]) -> Iterator[Problem]:
    """Channels of one name. They are kept apart by their numbers, and nnU-Net's names of normalizations may repeat."""
    for name in dict.fromkeys(names):
        numbers = [str(number) for number, other in enumerate(names) if other == name]
        if len(numbers) > 1:
            yield (
                f'channels {" and ".join(numbers)} have the same name, "{name}"',
                "Check that they are different images.",
            )


def duplicate_findings(digests: Sequence[tuple[str, str]]) -> list[Finding]:
    """One warning for each group of cases with identical images.

    Args:
        digests: name of each case and digest of its voxels; the digest is empty for an unreadable image. A training
            and a test case may have the same name.
    """
    by_digest: dict[str, list[str]] = defaultdict(list)
    for name, digest in digests:
        if digest:
            by_digest[digest].append(name)
    return [
        Finding(
            names[0],
            "warning",
            f"its image is identical to that of {', '.join(names[1:])}",
            "Keep one; otherwise training and validation may share it.",
        )
        for names in by_digest.values()
        if len(names) > 1
    ]


def require_usable(findings: Sequence[Finding], num_cases: int) -> None:
    """Log every finding, and refuse the data set if there are errors.

    Raises:
        CaseError: with the first error, after all findings were logged.
    """
    if findings:
        logger.info(format_findings(findings, num_cases))
    for finding in findings:
        if finding.severity == "error":
            raise CaseError(finding.case, finding.problem, finding.remedy)


def format_findings(findings: Sequence[Finding], num_cases: int) -> str:
    """The findings as a table for a terminal, errors first, with a line of totals."""
    counts = Counter(finding.severity for finding in findings)
    totals = ", ".join(counted(counts[severity], severity) for severity in ("error", "warning"))
    total = f"{counted(num_cases, 'case')}: {totals}"
    if not findings:
        return total
    rows = [
        (finding.severity, finding.case, f"{finding.problem}. {finding.remedy}")
        for finding in sorted(findings, key=lambda finding: finding.severity)
    ]
    return "\n".join([*text_table(rows, left=range(3)), total])
