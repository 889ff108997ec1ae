"""A misspelt option is told with the nearest one, also before a missing option and beside ids of configs."""

import pytest

from dynunet_bundle.commands.parser import command_parser
from dynunet_bundle.errors import ConfigError


@pytest.mark.parametrize(
    ("words", "near"),
    [
        ("train DATA --confg_file x.json", "--config_file"),
        ("train DATA --outputdir x", "--output_dir"),
        ("train DATA -o x --num_fold 3", "--num_folds"),
        ("predict --inptu x", "--input"),
        ("predict -i x -o y --overlp 0.3", "--overlap"),
    ],
)
def test_the_nearest_option_is_named(words: str, near: str) -> None:
    name, *options = words.split()
    with pytest.raises(ConfigError, match=f"Did you mean {near}"):
        command_parser(name, name).parse_words(options)


def test_an_id_that_looks_like_an_option_is_an_id() -> None:
    # num_workers is an id, and looks like --workers of other commands
    words = ["DATA", "-o", "x", "--num_workers", "2", "--seed", "1"]
    found = command_parser("train", "train").parse_words(words)
    assert found.overrides == ["--num_workers", "2", "--seed", "1"]
