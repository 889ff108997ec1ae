"""Table of exported models, one row per file.

Stored on disk: the attributes of ``ExportRow``, as ``models`` of ``export.json``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from dynunet_bundle.drawing.text_table import number_cell, text_table
from dynunet_bundle.shapes import TEXT, by_name, list_of, object_with

REPORT_NAME = "export.json"
REPORT_SCHEMA = object_with(
    {
        "machine": by_name({"type": ["string", "number", "null"]}),
        "models": list_of(
            object_with(
                {
                    "format": TEXT,
                    "precision": TEXT,
                    "wall_ms": {"type": ["number", "null"], "exclusiveMinimum": 0},
                },
                ("format", "precision"),
            )
        ),
    },
    ("models",),
    description="Pass an export.json written by dynunet-bundle export.",
)
"""Schema of ``export.json``."""

TITLES = (
    "format",
    "precision",
    "ms a patch",
    "CPU ms",
    "logits differ",
    "Dice",
    "MiB",
    "SHA-256",
)


@dataclass(frozen=True)
class ExportRow:
    """One exported model; unknown figures are None.

    Attributes:
        format: ``torch`` for the weights themselves, ``torchscript``, ``onnx`` or ``tensorrt``.
        precision: ``fp32``, ``fp16`` or ``bf16``.
        status: ``ok``, or why there is no file.
        file: name of the file.
        max_difference: largest difference of logits from those of the weights.
        dice: Dice of its masks against those of the weights.
        wall_ms: median wall time of one patch.
        cpu_ms: median CPU time of one patch, of all threads.
        mib: size of the file.
        sha256: of the file.
        remark: a note on the check, or empty.
    """

    format: str
    precision: str
    status: str
    file: str | None = None
    max_difference: float | None = None
    dice: float | None = None
    wall_ms: float | None = None
    cpu_ms: float | None = None
    mib: float | None = None
    sha256: str | None = None
    remark: str = ""

    @property
    def has_failed(self) -> bool:
        """Whether its check failed."""
        return self.status.startswith("failed")


def format_exports(rows: Sequence[ExportRow]) -> str:
    """The rows as text."""
    head = (*TITLES, "")
    return "\n".join(text_table([head, *map(_cells, rows)], left=(0, 1, len(head) - 1)))


def _cells(row: ExportRow) -> tuple[str, ...]:
    return (
        row.format,
        row.precision,
        number_cell(row.wall_ms, ".1f"),
        number_cell(row.cpu_ms, ".1f"),
        number_cell(row.max_difference, ".1e"),
        number_cell(row.dice, ".5f"),
        number_cell(row.mib, ".1f"),
        (row.sha256 or "-")[:12],
        row.remark if row.status == "ok" else row.status,
    )
