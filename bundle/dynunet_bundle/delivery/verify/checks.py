"""Checks whether a bundle is ready for the Model Zoo and for clients; each problem has a remedy.

The Model Zoo's own script (``ci/verify_bundle.py``) needs its repository and the network, and stops at the first
fault. A bundle is code, and these checks run it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dynunet_bundle.delivery.verify.bundle_folder import BundleFolder, BundleProblem, SkippedCheck
from dynunet_bundle.delivery.verify.commands import (
    check_export,
    check_network,
    check_schema,
    check_single_process,
)
from dynunet_bundle.delivery.verify.configs import (
    check_code,
    check_imports,
    check_inference,
    check_label,
    check_logging,
    check_train,
    check_weights,
)
from dynunet_bundle.delivery.verify.files import (
    check_files,
    check_json,
    check_readme,
    check_sizes,
    check_sums,
)
from dynunet_bundle.delivery.verify.metadata import check_metadata
from dynunet_bundle.errors import EXIT_FAILED, BundleError, ConfigError, counted
from dynunet_bundle.terminal import printable

CHECKS: dict[str, Callable[[BundleFolder], list[BundleProblem]]] = {
    "files": check_files,
    "sizes": check_sizes,
    "metadata": check_metadata,
    "json": check_json,
    "readme": check_readme,
    "logging": check_logging,
    "sums": check_sums,
    "label": check_label,
    "code": check_code,
    "imports": check_imports,
    "inference": check_inference,
    "train": check_train,
    "weights": check_weights,
    "schema": check_schema,
    "network": check_network,
    "export": check_export,
    "single-process": check_single_process,
}
"""Checks by id, quick ones first. docs/delivery.md describes each."""


class VerificationError(BundleError):
    """A bundle failed a check."""

    exit_code = EXIT_FAILED


@dataclass(frozen=True)
class Result:
    """Result of a check.

    Attributes:
        check: its id.
        problems: each with a remedy; empty if the check passed.
        skipped: why it was not run, or empty.
    """

    check: str
    problems: tuple[BundleProblem, ...] = ()
    skipped: str = ""


def verify_bundle(
    folder: str | Path,
    only: Sequence[str] = (),
    report: Callable[[Result], None] = lambda result: None,
) -> list[Result]:
    """Run the checks.

    Args:
        folder: the bundle folder.
        only: ids of the checks to run; all if empty.
        report: called with each result as soon as it is known.

    Raises:
        ConfigError: if there is no such folder or no such check.
    """
    unknown = [name for name in only if name not in CHECKS]
    if unknown:
        raise ConfigError(f"there is no check {unknown[0]}. Choose from {', '.join(CHECKS)}.")
    root = Path(folder)
    if not root.is_dir():
        raise ConfigError(
            f"{root} is not a folder. Pass the folder of a bundle; unpack a zip first."
        )
    results = []
    with BundleFolder(root) as bundle:
        for name in only or CHECKS:
            results.append(_run(name, bundle))
            report(results[-1])
    return results


def _run(name: str, bundle: BundleFolder) -> Result:
    try:
        return Result(name, tuple(CHECKS[name](bundle)))
    except SkippedCheck as reason:
        return Result(name, skipped=str(reason))
    except BundleError as error:
        return Result(name, (BundleProblem(str(error), ""),))


def require_passed(results: Sequence[Result]) -> None:
    """Refuse a bundle with a failed check.

    Raises:
        VerificationError: naming the checks.
    """
    failed = [result.check for result in results if result.problems]
    if failed:
        raise VerificationError(f"{counted(len(failed), 'check')} failed: {', '.join(failed)}.")


def format_result(result: Result) -> str:
    """A result as text for a terminal: one line, or one line per problem."""
    if result.skipped:
        return f"skipped  {result.check}: {result.skipped}"
    if not result.problems:
        return f"passed   {result.check}"
    return "\n".join(
        f"FAILED   {result.check}: {printable(f'{problem.message} {problem.remedy}'.rstrip())}"
        for problem in result.problems
    )
