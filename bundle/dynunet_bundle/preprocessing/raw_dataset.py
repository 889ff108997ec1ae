"""A MONAI Dataset of raw cases."""

from collections.abc import Sequence
from typing import Any, Protocol

from monai.data import Dataset, list_data_collate

from dynunet_bundle.dataset.case_errors import apply_to_case
from dynunet_bundle.dataset.cases import Case, name_of
from dynunet_bundle.errors import BundleError

FAILURE = "failure"
"""Key of the error in the item that a tolerant data set returns for an unreadable case."""


class Remaining(Protocol):
    """A record of cases, see ``RunRecord``."""

    def remaining(self) -> list[Case]:
        """The cases that still have to be predicted."""


class RawDataset(Dataset):
    """Raw cases whose errors name the case: ``dataset`` of inference.json and evaluate.json.

    MONAI's own Dataset wraps errors in one that does not name the case.

    Args:
        data: raw cases. A client may set them, so the config refers to them as ``@dataset#data``.
        transform: the declared preprocessing.
        tolerant: whether to return ``{"failure": error, "name": name}`` for an unreadable case, so that a
            ``CaseEvaluator`` continues with the others.
        record: the ``RunRecord`` of ``data``, which knows the cases that remain to be predicted; None for all.
    """

    def __init__(
        self,
        data: Sequence[Case],
        transform: Any = None,
        tolerant: bool = False,
        record: Remaining | None = None,
    ) -> None:
        super().__init__(data if record is None else record.remaining(), transform)
        self.tolerant = tolerant

    def _transform(self, index: int) -> Any:
        case = self.data[index]
        try:
            return apply_to_case(case, self.transform)
        except BundleError as error:
            if not self.tolerant:
                raise
            return {FAILURE: error, "name": name_of(case)}


def collate_cases(batch: Sequence[Any]) -> Any:
    """MONAI's collation, but failures pass on: ``dataloader#collate_fn`` of inference.json and evaluate.json."""
    failures = [case for case in batch if FAILURE in case]
    return failures[0] if failures else list_data_collate(batch)
