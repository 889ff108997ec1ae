"""One self-contained HTML page about a folder of predictions: scores, pictures, cases, quality flags, facts of the run.

The page works offline and without JavaScript; its only script sorts tables. Contours are layers, which a check box
hides. It names cases by their file names and shows neither folders nor header fields that may identify a patient. MONAI
has no such page: its MetricsSaver and ``write_metrics_reports`` write CSV files.
"""

import base64
import datetime
import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from dynunet_bundle.drawing.colours import ClassColours
from dynunet_bundle.errors import counted, some_of
from dynunet_bundle.files import atomic_write
from dynunet_bundle.report.agreement import MAX_PLOTS, agreement_plot, agreements
from dynunet_bundle.report.charts import Strip, strip_chart
from dynunet_bundle.report.choice import chosen_cases, drawable_cases
from dynunet_bundle.report.content import (
    Content,
    Flag,
    files_by_case,
    find_file,
    masks_of,
)
from dynunet_bundle.report.facts import key_facts, run_facts, settings, stage_times
from dynunet_bundle.report.pictures import CaseFiles, CasePictures, draw_case
from dynunet_bundle.report.tables import (
    CHART_MEASURES,
    case_table,
    caution,
    meanings,
    summary_table,
    verdict,
)
from dynunet_bundle.report.text import clean, number

TEMPLATE_FOLDER = Path(__file__).parent / "template"
REPORT_NAME = "report.html"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShownCase:
    """One case with pictures: its grade, its rank (``worst``, ``best`` or empty), its scores as text, its flags."""

    name: str
    grade: str
    rank: str
    scores: str
    flags: Sequence[Flag]
    pictures: CasePictures


def write_report(
    path: Path,
    predictions: Path,
    *,
    images: Path | Mapping[str, Any] | None = None,
    labels: Path | Mapping[str, Any] | None = None,
    scores: Mapping[str, Any] | None = None,
    run: Mapping[str, Any] | None = None,
    title: str | None = None,
    class_names: Mapping[int, str] | None = None,
    cases: Sequence[str] = (),
) -> Path:
    """Write the page; sections that need a missing input are left out.

    Args:
        path: the HTML file to write; its folder must exist.
        predictions: folder of the predicted masks.
        images: folder of the images (or one image, or files by case); without images there are no pictures.
        labels: the reference masks, in the same forms; without them, pictures show the prediction only.
        scores: content of scores.json.
        run: content of run.json.
        title: heading of the page; default: the task's name.
        class_names: name of each label value, the background first; default: the names in ``run``.
        cases: to show with pictures, see ``chosen_cases``.

    Returns:
        ``path``.

    Raises:
        ConfigError: if ``cases`` names an unknown case.
        OutputError: if the file cannot be written.
    """
    run = run or {}
    content = Content(scores or {}, run, masks_of(predictions, run))
    files = {"images": files_by_case(images), "labels": files_by_case(labels)}
    _tell_missing(content, files, images=images, labels=labels)
    colours = _colours(run, class_names)
    shown = _shown_cases(content, files, colours, cases)
    page = _render(
        title=clean(title or run.get("task_name") or "Segmentation"),
        shown=shown,
        pictures_title=_pictures_title(shown),
        num_drawable=len(drawable_cases(content)),
        classes=colours.legend(sorted({value for case in shown for value in case.pictures.values})),
        has_planes=any(panel.caption for case in shown for panel in case.pictures.panels),
        has_labels=bool(files["labels"]),
        flags=_flags_without_card(content, shown),
        **_numbers(content),
        **_facts(content),
    )
    with atomic_write(path) as file:
        # file names are not always valid Unicode
        file.write(page.encode("utf-8", errors="replace"))
    return path


def _numbers(content: Content) -> dict[str, Any]:
    """Scores and sizes, as the template names them."""
    summary = summary_table(content)
    sizes = agreements(content)
    return {
        "verdict": verdict(content),
        "caution": caution(content),
        "summary": summary,
        "meanings": meanings(summary),
        "charts": _charts(content),
        "agreements": [agreement_plot(one) for one in sizes[:MAX_PLOTS]],
        "num_agreements": len(sizes),
        "cases": case_table(content),
    }


def _facts(content: Content) -> dict[str, Any]:
    """Facts of the run, as the template names them."""
    run = content.run
    written = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M")
    return {
        "written": written,
        "key_facts": key_facts(content, written),
        "failures": content.failures,
        "has_run": bool(run),
        "facts": run_facts(run),
        "versions": settings(run.get("versions")),
        "parameters": settings(run.get("parameters")),
        "plan": settings(run.get("plan")),
        "times": stage_times(run),
    }


def _render(**context: Any) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["clean"] = clean
    environment.globals["counted"] = counted
    script = environment.get_template("sort.js").render()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("report.html").render(script_sha256=digest, **context)


def _charts(content: Content) -> list[Strip]:
    charts = []
    for key in CHART_MEASURES:
        values = {
            name: {case: content.value(case, name, key) for case in content.cases}
            for name in content.scored
        }
        chart = strip_chart(content.measure(key), values)
        if chart is not None:
            charts.append(chart)
    return charts


def _colours(run: Mapping[str, Any], class_names: Mapping[int, str] | None) -> ClassColours:
    named = class_names or dict(
        zip(run.get("label_values") or (), run.get("label_names") or (), strict=False)
    )
    return ClassColours({value: name for value, name in named.items() if value != 0})


def _pictures_title(shown: Sequence[ShownCase]) -> str:
    return "Cases to look at" if any(case.flags for case in shown) else "Pictures"


def _flags_without_card(content: Content, shown: Sequence[ShownCase]) -> list[Flag]:
    """Flags of the cases without pictures: the others' stand in their cards."""
    names = {case.name for case in shown}
    return [flag for case in content.by_grade if case not in names for flag in content.flags(case)]


def _shown_cases(
    content: Content,
    files: Mapping[str, Mapping[str, Path]],
    colours: ClassColours,
    wanted: Sequence[str],
) -> list[ShownCase]:
    chosen = chosen_cases(content, wanted)
    if not files["images"]:
        return []
    return [_shown_case(content, files, case, rank, colours) for case, rank in chosen.items()]


def _tell_missing(content: Content, files: Mapping[str, Mapping[str, Path]], **given: Any) -> None:
    """Log the cases of the page that the given images or labels lack."""
    for what, source in given.items():
        missing = [case for case in content.cases if find_file(files[what], case) is None]
        if source is not None and missing:
            logger.warning(
                "the folder of %s lacks %d of the %d cases of the report: %s",
                what,
                len(missing),
                len(content.cases),
                some_of(missing),
            )


def _shown_case(
    content: Content,
    files: Mapping[str, Mapping[str, Path]],
    case: str,
    rank: str,
    colours: ClassColours,
) -> ShownCase:
    image = find_file(files["images"], case)
    if image is None:
        pictures = CasePictures(note="Not drawn: its image was not found.")
    else:
        reference = find_file(files["labels"], case)
        ignored = (content.run.get("plan") or {}).get("ignore_value")
        prediction = find_file(content.masks, case) or Path()
        pictures = draw_case(CaseFiles(case, image, prediction, reference), ignored, colours)
    values = ((name, content.value(case, name, "dice")) for name in content.scored)
    dice = ", ".join(f"{name} {number(value)}" for name, value in values)
    told = f"Dice {dice}" if dice else ""
    return ShownCase(case, content.grade(case), rank, told, content.flags(case), pictures)
