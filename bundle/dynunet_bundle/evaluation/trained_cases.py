"""Cases of an evaluation that the model was trained on: their scores are too good."""

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from dynunet_bundle.dataset.case_marks import name_mark
from dynunet_bundle.errors import counted

logger = logging.getLogger(__name__)


def tell_trained(
    cases: Collection[str],
    run: Mapping[str, Any],
    marks: Sequence[Mapping[str, str | None]] = (),
) -> list[str]:
    """Warn of cases that the model was trained on.

    Args:
        cases: names of the cases.
        run: content of run.json, which knows them by their images; may be empty.
        marks: ``trained`` of each model.json; used without a run.json, and by names only.

    Returns:
        Names of the cases of which run.json says so.
    """
    entries = run.get("cases", {})
    trained = [name for name in cases if entries.get(name, {}).get("in_training")]
    whole = counted(len(cases), "case")
    if trained:
        logger.warning(
            "%d of %s were in the training of this model, so that their masks are better than those of new cases",
            len(trained),
            whole,
        )
    named = [name for name in cases if any(name_mark(name) in one for one in marks)]
    if named and not run:
        logger.warning(
            "%d of %s have the names of cases in the training of this model. If they are the same, their scores are "
            "too good.",
            len(named),
            whole,
        )
    return trained
