"""A table that is wider than the terminal keeps names and ids whole."""

import sys

import pytest

from cbtfs.cli.report.output import print_table

ID = "cbb08e0553d0" * 2
MOMENT = "2026-11-29T03-14-25Z"


@pytest.mark.parametrize("columns", [30, 60, 200])
def test_cells_are_not_split(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)

    print_table(("id", "time", "vm"), [(ID, MOMENT, "web01")])

    out = capsys.readouterr().out
    assert ID in out
    assert MOMENT in out
