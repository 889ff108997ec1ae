"""Whether a bundle is ready for the Model Zoo and for clients: one check after the other, each with its remedy.

The Model Zoo's own script (``ci/verify_bundle.py``) needs its repository and the network, and stops at the first
fault. A bundle is code: the checks run it.
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
from dynunet_bundle.errors import EXIT_FAILED, BundleError, ConfigError

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
"""By id; quick ones first. docs/delivery.md says what each looks at."""


class VerificationError(BundleError):
    """A bundle is not what it should be."""

    exit_code = EXIT_FAILED


@dataclass(frozen=True)
class Result:
    """What a check found.

    Attributes:
        check: its id.
        problems: each with a remedy; none where the check passed.
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
        only: ids of the checks to run; all where empty.
        report: called with each result as it comes.

    Raises:
        ConfigError: if there is no such folder or no such check.
    """
    unknown = [name for name in only if name not in CHECKS]
    if unknown:
        raise ConfigError(f"there is no check {unknown[0]}. Choose from {', '.join(CHECKS)}.")
    root = Path(folder)
    if not root.is_dir():
        raise ConfigError(f"{root} is no folder. Pass the folder of a bundle; unpack a zip first.")
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
    """Refuse the whole where a check failed.

    Raises:
        VerificationError: naming the checks.
    """
    failed = [result.check for result in results if result.problems]
    if failed:
        raise VerificationError(f"{len(failed)} check(s) failed: {', '.join(failed)}.")


def format_result(result: Result) -> str:
    """A result for a terminal: a line, and one for each problem."""
    if result.skipped:
        return f"skipped  {result.check}: {result.skipped}"
    if not result.problems:
        return f"passed   {result.check}"
    return "\n".join(
        f"FAILED   {result.check}: {problem.message} {problem.remedy}".rstrip()
        for problem in result.problems
    )
