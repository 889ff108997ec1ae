"""Parsing of the command line of scripts/train.py."""

import pytest

from dynunet_bundle.cross_validation.request import chosen_folds, parse_overrides
from dynunet_bundle.errors import ConfigError

KNOWN = {"amp", "ckpt_dir", "epochs", "fold", "norm_name", "pretrained", "train", "val_interval"}


@pytest.mark.parametrize(
    ("fold", "folds", "expected"),
    [
        (None, ["all"], [0, 1, 2]),
        (None, ["2", "0", "2"], [0, 2]),
        ("1", ["all"], [1]),
    ],
)
def test_folds(fold: str | None, folds: list[str], expected: list[int]) -> None:
    assert chosen_folds(fold, folds, 3) == expected


@pytest.mark.parametrize(("fold", "folds"), [("3", ["all"]), (None, ["0", "x"]), ("-1", ["all"])])
def test_folds_that_do_not_exist(fold: str | None, folds: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"there is no fold .*from 0 to 2"):
        chosen_folds(fold, folds, 3)


def test_overrides_are_read_as_monai_reads_them() -> None:
    arguments = [
        *("--epochs", "3", "--amp=False", "--norm_name", "['BATCH', {}]"),
        *("--pretrained", "runs/model.pt", "--train#seed", "7", "--val-interval=2"),
    ]
    assert parse_overrides(arguments, KNOWN) == {
        "epochs": 3,
        "amp": False,
        "norm_name": ["BATCH", {}],
        "pretrained": "runs/model.pt",
        "train#seed": 7,
        "val_interval": 2,
    }
    assert parse_overrides(["--amp", "--epochs", "2"], KNOWN) == {"amp": True, "epochs": 2}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epocs", "3"], 'did you mean "epochs"'),
        (["--ckpt_dir", "x"], "ckpt_dir is set by --output_dir"),
        (["--config_file=x"], "config_file is set by --config_file"),
        (["3"], '"3" does not follow an option'),
        (["--epochs", "3", "4"], '"4" does not follow an option'),
    ],
)
def test_overrides_that_cannot_be(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_overrides(arguments, KNOWN)
