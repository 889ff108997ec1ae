"""Synthetic predictions, labels, images, scores and runs, small enough for a page to be written quickly."""

import base64
import io
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from conftest import save_nifti
from PIL import Image

from dynunet_bundle.drawing.colours import COLOURS
from dynunet_bundle.report.pictures import CaseFiles, CasePictures, Panel

NAMES = ("head", "tail")
SHAPE = (20, 24, 16)
LEVELS = [tuple(int(code[place : place + 2], 16) for place in (1, 3, 5)) for code in COLOURS]
"""Means by class, in the order of the classes."""


def body(shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Two touching blocks, class 1 and class 2, off-centre."""
    mask = np.zeros(shape, np.uint8)
    mask[4:12, 5:12, 4:12] = 1
    mask[4:12, 12:18, 4:12] = 2
    return mask


def save_cases(folder: Path, names: list[str]) -> dict[str, Path]:
    """Images, labels and predictions of some cases; keywords of ``write_report``."""
    folders = {kind: folder / kind for kind in ("images", "labels", "predictions")}
    rng = np.random.default_rng(0)
    for name in names:
        mask = body()
        image = (mask * 50 + rng.normal(100, 10, SHAPE)).astype(np.float32)
        for kind, array in (
            ("images", image),
            ("labels", mask),
            ("predictions", np.roll(mask, 1, 0)),
        ):
            save_nifti(folders[kind] / f"{name}.nii.gz", array)
    return folders


def made_scores(cases: list[str], seed: int = 0) -> dict[str, Any]:
    """The content of a scores.json; its statistics are random, so that no page can compute them by chance."""
    rng = np.random.default_rng(seed)
    keys = ("dice", "nsd", "hd95_mm", "volume_ml", "reference_volume_ml", "volume_difference_ml")
    measures = {
        case: {name: {key: float(rng.random()) for key in keys} for name in NAMES} for case in cases
    }
    statistics = {
        name: {
            key: {
                "mean": float(rng.random()),
                "median": float(rng.random()),
                "ci95": sorted(rng.random(2).tolist()),
                "num_cases": int(rng.integers(1, 99)),
            }
            for key in keys
        }
        for name in NAMES
    }
    dice = {case: {name: measures[case][name]["dice"] for name in NAMES} for case in cases}
    mean = {name: statistics[name]["dice"]["mean"] for name in NAMES}
    return {
        "metric": "Dice",
        "cases": dice,
        "mean": mean,
        "num_cases": {name: len(cases) for name in NAMES},
        "mean_dice": float(np.mean(list(mean.values()))),
        "measures": measures,
        "statistics": statistics,
        "nsd_tolerance_mm": 2.0,
    }


def made_run(cases: list[str]) -> dict[str, Any]:
    """The content of a run.json; the second case has two flags, the last one failed."""
    facts: dict[str, Any] = {
        case: {
            "status": "done",
            "error": None,
            "mask": f"{case}.nii.gz",
            "seconds": {"load": 0.5, "network": 4.0 + number},
            "volumes_ml": {"head": 1.25 + number, "tail": 2.5},
            "flags": [],
        }
        for number, case in enumerate(cases)
    }
    facts[cases[1]]["flags"] = [
        {"kind": "components", "label": "head", "message": "3 parts, not 1", "value": 3},
        {"kind": "intensity", "label": None, "message": "darker than the training", "value": 0.1},
    ]
    facts[cases[-1]] |= {"status": "failed", "error": "cannot read /data/Jane Doe/x.nii (OSError)"}
    return {
        "format": 1,
        "status": "finished",
        "exit_code": 0,
        "started": "2026-11-24T10:00:00+00:00",
        "seconds": 205.0,
        "task_name": "Task99_Phantom",
        "versions": {"dynunet_bundle": "0.1.0", "torch": "2.13.0"},
        "device": "cpu",
        "plan": {"patch_size": [16, 16, 16], "ignore_value": None},
        "plan_sha256": "12ab" * 16,
        "weights": [{"file": "/home/jane/model.pt", "sha256": "cd34" * 16}],
        "parameters": {"overlap": 0.5, "members": ["/mnt/Jane Doe/a.pt"], "mode": "gaussian"},
        "label_names": ["background", *NAMES],
        "label_values": [0, 1, 2],
        "cases": facts,
    }


def parsed(page: Path) -> ET.Element:
    """The page as XML, which is stricter than HTML: every tag is closed, every value quoted and escaped."""
    return ET.fromstring(page.read_text(encoding="utf-8").removeprefix("<!DOCTYPE html>"))  # noqa: S314 - our own page


def table_rows(page: Path, section: str) -> list[list[ET.Element]]:
    """The cells of the body of a section's table, by row."""
    body = parsed(page).find(f".//section[@id='{section}']//tbody")
    assert body is not None
    return [list(row) for row in body]


def text_of(element: ET.Element) -> str:
    return " ".join("".join(element.itertext()).split())


def data_pictures(page: Path) -> list[Image.Image]:
    """All pictures within a page, without their contours, decoded to their last row."""
    content = page.read_text(encoding="utf-8")
    found = re.findall(r'class="base" src="data:image/(?:png|jpeg);base64,([^"]+)"', content)
    pictures = [Image.open(io.BytesIO(base64.b64decode(text, validate=True))) for text in found]
    for picture in pictures:
        picture.load()
    return pictures


def pixels(panel: Panel) -> np.ndarray:
    """``[height, width, 3]`` of a panel with its contours, as a browser lays them over each other."""
    layers = [
        Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2], validate=True)))
        for source in (panel.source, panel.prediction, panel.reference)
        if source
    ]
    return np.asarray(merged(*layers))


def merged(picture: Image.Image, *overlays: Image.Image | None) -> Image.Image:
    """A picture with layers over it, as RGB."""
    whole = picture.convert("RGBA")
    for overlay in overlays:
        if overlay is not None:
            whole = Image.alpha_composite(whole, overlay.convert("RGBA"))
    return whole.convert("RGB")


def inked(picture: np.ndarray, *values: int) -> np.ndarray:
    """Mask ``[height, width]`` of the pixels in the colour of one of the classes."""
    return np.any([(picture == LEVELS[value - 1]).all(axis=-1) for value in values], axis=0)


def extent(picture: np.ndarray, *values: int) -> tuple[int, int]:
    """Width and height of the area enclosed by the contours of some classes."""
    rows, columns = np.nonzero(inked(picture, *values))
    return int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1


def saved_case(
    folder: Path,
    image: np.ndarray,
    prediction: np.ndarray,
    reference: np.ndarray | None = None,
    affine: np.ndarray | None = None,
    axes: str | None = None,
) -> CaseFiles:
    """One case as NIfTI; ``axes`` stores its arrays along other axes."""
    folder.mkdir(exist_ok=True)
    files = {"image": image, "prediction": prediction, "reference": reference}
    for name, array in files.items():
        if array is not None:
            file = nib.Nifti1Image(array, np.eye(4) if affine is None else affine)
            if axes is not None:
                ends = nib.io_orientation(file.affine), nib.orientations.axcodes2ornt(axes)
                file = file.as_reoriented(nib.orientations.ornt_transform(*ends))
            nib.save(file, folder / f"{name}.nii.gz")
    paths = [folder / f"{name}.nii.gz" for name in files]
    return CaseFiles("case", paths[0], paths[1], None if reference is None else paths[2])


def by_plane(drawn: CasePictures) -> dict[str, np.ndarray]:
    """Pixels of each plane by its name."""
    assert not drawn.note
    return {panel.caption.split(",")[0]: pixels(panel) for panel in drawn.panels}
