"""Output files of an evaluation.

Stored on disk: ``scores.json`` (see ``scores.summarize_measures``), an optional CSV table and HTML report.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dynunet_bundle.dataset.reference_labels import cases_by_name, dataset_root
from dynunet_bundle.errors import ConfigError
from dynunet_bundle.evaluation.label_source import with_names
from dynunet_bundle.evaluation.statistics import SCORES_NAME
from dynunet_bundle.evaluation.text_tables import measures_csv
from dynunet_bundle.files import atomic_write, ensure_writable, write_json
from dynunet_bundle.inference.run_json import RUN_NAME, read_run_json


class Outputs(NamedTuple):
    """Files to write.

    Attributes:
        scores: JSON of all scores; if None, ``scores.json`` in the folder of the masks.
        csv: table of all measures, or None.
        report: HTML page, or None.
        images: folder of the images that the page shows, or None.
    """

    scores: Path | None = None
    csv: Path | None = None
    report: Path | None = None
    images: Path | None = None


def write_outputs(
    summary: Mapping[str, Any],
    predictions: Path,
    labels: Path | Mapping[str, str],
    outputs: Outputs,
    class_names: Mapping[int, str] | None = None,
) -> list[Path]:
    """Write scores, table and page; the page also shows the ``run.json`` of the masks' folder.

    Args:
        summary: result of ``summarize_measures``.
        predictions: folder of the masks.
        labels: folder of the references, or their paths by case.
        outputs: files to write.
        class_names: name of each label value in the scores; the page uses these names for the run, too.

    Returns:
        The files that were written.

    Raises:
        ConfigError: if ``images`` is not a folder, or ``run.json`` is malformed.
        OutputError: if a file cannot be written.
    """
    scores = outputs.scores or predictions / SCORES_NAME
    written = [path for path in (scores, outputs.csv, outputs.report) if path is not None]
    for path in written:
        ensure_writable(path.parent)
    write_json(scores, summary)
    if outputs.csv:
        with atomic_write(outputs.csv) as file:
            file.write(measures_csv(summary))
    if outputs.report:
        _write_page(summary, predictions, labels, outputs, class_names or {})
    return written


def page_images(images: Path | None) -> Any:
    """Images for ``write_report``: a folder, or those of a data set by case.

    Args:
        images: a folder of images or a data set, or None.

    Raises:
        ConfigError: if it is not a folder.
    """
    if images and not images.is_dir():
        raise ConfigError(f"{images} is not a folder. Pass the folder of the images as --input.")
    if images and (root := dataset_root(images)):
        return {name: case["image"] for name, case in cases_by_name(root).items()}
    return images


def _write_page(
    summary: Mapping[str, Any],
    predictions: Path,
    labels: Path | Mapping[str, str],
    outputs: Outputs,
    class_names: Mapping[int, str],
) -> None:
    # importing jinja2 and the drawing takes longer than a small evaluation
    from dynunet_bundle.report.page import write_report

    run = predictions / RUN_NAME
    write_report(
        outputs.report or Path(),
        predictions,
        images=page_images(outputs.images),
        labels=labels,
        scores=summary,
        run=with_names(read_run_json(run), class_names) if run.is_file() else None,
        class_names=class_names,
    )
