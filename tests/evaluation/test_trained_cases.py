"""Cases that the model was trained on are told, by their images or by their names."""

import logging
from pathlib import Path

import numpy as np
import pytest
from conftest import save_picture

from dynunet_bundle.dataset.case_marks import case_marks, is_marked, name_mark
from dynunet_bundle.evaluation.trained_cases import tell_trained
from dynunet_bundle.report.content import Content
from dynunet_bundle.report.tables import caution

RUN = {"cases": {"a": {"in_training": True}, "b": {}, "c": {"in_training": True}}}


def test_cases_of_the_training_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    assert tell_trained(["a", "b"], RUN) == ["a"]
    assert "1 of 2 cases were in the training of this model" in caplog.text
    caplog.clear()
    assert tell_trained(["b"], RUN) == [] and not caplog.text


def test_without_a_run_the_names_are_compared(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    marks = [{name_mark("a"): "0123"}]
    assert tell_trained(["a", "b"], {}, marks) == []
    assert "1 of 2 cases have the names of cases in the training" in caplog.text
    caplog.clear()
    # run.json knows the images, so that the same name alone counts for nothing
    assert tell_trained(["b"], RUN, [{name_mark("b"): "0123"}]) == [] and not caplog.text


def test_a_renamed_image_is_recognised_and_another_one_is_not(tmp_path: Path) -> None:
    first, other = ({"image": str(tmp_path / name)} for name in ("a.png", "b.png"))
    for number, case in enumerate((first, other)):
        save_picture(Path(case["image"]), np.full((8, 8), number, np.uint8))
    marks = case_marks([first])
    assert is_marked(first, marks) and not is_marked(other, marks)
    renamed = tmp_path / "renamed.png"
    renamed.write_bytes(Path(first["image"]).read_bytes())
    assert is_marked({"image": str(renamed)}, marks)


def test_the_page_says_so() -> None:
    assert caution(Content({}, RUN)).startswith("2 of 3 cases were in the training of this model")
    scores = {"cases": {name: {} for name in "ab"}, "trained_cases": ["b"]}
    assert caution(Content(scores, {})).startswith("1 of 2 cases were in the training")
    assert caution(Content({}, {"cases": {"a": {}}})) == ""
