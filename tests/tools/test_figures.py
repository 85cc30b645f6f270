"""The figures of the documentation equal the output of their script."""

import pytest

from tools.figures.__main__ import FIGURES, FOLDER


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_up_to_date(name: str) -> None:
    assert (FOLDER / name).read_text() == FIGURES[name](), "run python -m tools.figures"


def test_every_figure_has_a_script() -> None:
    assert {path.name for path in FOLDER.iterdir()} == FIGURES.keys()
