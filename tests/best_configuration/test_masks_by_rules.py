"""Rules applied to masks that exist give the masks of a prediction with the rules, in every format."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import save_nifti, save_picture
from monai.data import MetaTensor

from dynunet_bundle.best_configuration.masks_by_rules import apply_rules
from dynunet_bundle.commands.main import run_program
from dynunet_bundle.errors import ConfigError, DatasetError, OutputError, PredictionError
from dynunet_bundle.evaluation.label_source import label_ids_of_masks
from dynunet_bundle.inference.run_json import read_run_json
from dynunet_bundle.inference.save_mask import save_mask
from dynunet_bundle.labels.largest_component import KeepLargestd
from dynunet_bundle.nnunet.component_rules import write_component_rules

RULES = [[1, 2], [1]]
NAMES = {"label_names": ["background", "head", "tail"], "label_values": [0, 1, 2]}


def made_mask(shape: tuple[int, ...]) -> torch.Tensor:
    values = np.random.default_rng(0).choice(3, shape, p=[0.8, 0.1, 0.1])
    return torch.from_numpy(values.astype(np.int32))


def masks_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.suffix != ".json"}


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """Masks without the rules in ``masks``, and with the rules in ``wanted``."""
    images = {"volume.nii.gz": (9, 10, 11), "picture.png": (20, 30, 1)}
    save_nifti(tmp_path / "images" / "volume.nii.gz", np.zeros((9, 10, 11), np.float32))
    save_picture(tmp_path / "images" / "picture.png", np.zeros((30, 20), np.uint8))
    for name, shape in images.items():
        mask = made_mask(shape)
        case, source = name.partition(".")[0], tmp_path / "images" / name
        save_mask(mask, source, tmp_path / "masks", case)
        ruled = KeepLargestd("pred", RULES)({"pred": MetaTensor(mask[None])})["pred"][0]
        assert not torch.equal(ruled, mask)
        save_mask(ruled.as_tensor(), source, tmp_path / "wanted", case)
    (tmp_path / "masks" / "run.json").write_text(
        json.dumps({**NAMES, "task_name": "Own", "parameters": {"overlap": 0.5}})
    )
    return tmp_path


def test_the_masks_are_those_of_a_prediction_with_the_rules(made: Path) -> None:
    apply_rules(made / "masks", made / "out", RULES)
    assert masks_of(made / "out") == masks_of(made / "wanted")
    assert label_ids_of_masks(made / "out")[1] == NAMES
    run = read_run_json(made / "out" / "run.json")
    assert run["parameters"] == {"overlap": 0.5, "keep_largest": RULES}
    assert run["task_name"] == "Own" and run["cases"]["volume"]["status"] == "done"


@pytest.mark.parametrize("source", ["overlay", "nnunet"])
def test_the_command_takes_rules_of_both_kinds(made: Path, source: str) -> None:
    (made / "best.json").write_text(json.dumps({"keep_largest": RULES}))
    write_component_rules(made, RULES)
    given = {"overlay": ["-c", str(made / "best.json")], "nnunet": ["--nnunet_dir", str(made)]}
    words = ["postprocess", str(made / "masks"), "-o", str(made / "out"), *given[source]]
    assert run_program(words) == 0
    assert masks_of(made / "out") == masks_of(made / "wanted")


def test_a_damaged_mask_does_not_end_the_others(made: Path) -> None:
    (made / "masks" / "broken.nii.gz").write_bytes(b"no image")
    with pytest.raises(PredictionError, match="1 of 3 cases failed.*\n.*broken"):
        apply_rules(made / "masks", made / "out", RULES)
    assert masks_of(made / "out") == masks_of(made / "wanted")
    assert read_run_json(made / "out" / "run.json")["cases"]["broken"]["status"] == "failed"


def test_what_cannot_be_meant_is_refused(made: Path) -> None:
    masks, out = made / "masks", made / "out"
    with pytest.raises(OutputError, match="Choose another --output_dir"):
        apply_rules(masks, masks, RULES)
    with pytest.raises(ConfigError, match="the value 5"):
        apply_rules(masks, out, [[5]])
    with pytest.raises(DatasetError, match="has no masks"):
        apply_rules(made / "absent", out, RULES)
    words = ["postprocess", str(masks), "-o", str(out)]
    with pytest.raises(ConfigError, match="by one of --model"):
        run_program(words)
    (made / "none.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"none.json has no rules"):
        run_program([*words, "-c", str(made / "none.json")])
    assert not out.exists()
