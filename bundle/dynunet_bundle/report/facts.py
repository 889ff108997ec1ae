"""Facts of a run in a report: date, model and plan, settings, times."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dynunet_bundle.report.content import Content
from dynunet_bundle.report.text import clean, duration, finite, shown_value


@dataclass(frozen=True)
class StageTime:
    """One stage: the median, maximum and sum of its times over the cases, as text."""

    stage: str
    texts: tuple[str, ...]


def key_facts(content: Content, written: str) -> list[tuple[str, str]]:
    """Date, model and plan, as terms and texts, for the top of the page."""
    run = content.run
    plan = run.get("plan") or {}
    spacing, unit = plan.get("spacing"), "px" if content.in_pixels else "mm"
    facts = [
        ("Page written", written),
        ("Predicted", run.get("started")),
        ("Configuration", _configuration(plan, content.in_pixels)),
        ("Patch", _by_axis(plan.get("patch_size"))),
        ("Spacing", spacing and f"{_by_axis(spacing)} {unit}"),
    ]
    facts += [
        (f"SHA-256 of {clean(file.get('file') or 'weights')}", file.get("sha256"))
        for file in run.get("weights") or ()
    ]
    facts.append(("SHA-256 of the plan", run.get("plan_sha256")))
    return [(term, clean(text)) for term, text in facts if text not in (None, "")]


def _configuration(plan: Mapping[str, Any], in_pixels: bool) -> str:
    parts = [
        f"{plan['spatial_dims']}D" if "spatial_dims" in plan else "",
        str(plan.get("architecture", "")),
        "cascade" if plan.get("cascade") else "",
        f"axes {plan['axcodes']}" if "axcodes" in plan and not in_pixels else "",
    ]
    return ", ".join(part for part in parts if part)


def _by_axis(values: Any) -> str:
    return " \u00d7 ".join(shown_value(value) for value in values or ())


def run_facts(run: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Facts of the run, such as task, device and duration, as terms and texts."""
    facts = [
        ("Task", run.get("task_name")),
        ("Status", _status(run)),
        ("Error", run.get("error")),
        ("Duration", duration(run["seconds"]) if "seconds" in run else None),
        ("Device", run.get("device")),
    ]
    return [(term, clean(text)) for term, text in facts if text not in (None, "")]


def _status(run: Mapping[str, Any]) -> str | None:
    status, code = run.get("status"), run.get("exit_code")
    return f"{status}, exit code {code}" if status and code else status


def settings(values: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """Names and values as terms and texts."""
    return [(clean(name), shown_value(value)) for name, value in (values or {}).items()]


def stage_times(run: Mapping[str, Any]) -> list[StageTime]:
    """Times of each stage."""
    stages: dict[str, list[float]] = {}
    for facts in run.get("cases", {}).values():
        for stage, seconds in (facts.get("seconds") or {}).items():
            known = finite(seconds)
            if known is not None:
                stages.setdefault(clean(stage), []).append(known)
    return [
        StageTime(stage, tuple(map(duration, (float(np.median(times)), max(times), sum(times)))))
        for stage, times in stages.items()
    ]
