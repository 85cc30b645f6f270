"""Tables that fit a width: cells have shorter variants, and columns can be omitted."""

import os
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cbtfs.core.names import printable

_GAP: Final = "  "
_WORTH_HEADINGS: Final = 3
"""Number of reductions that headings must save. A table is easier to read."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its cells from top to bottom, in variants from the longest to the shortest."""

    name: str
    variants: Sequence[Sequence[str]]
    is_right: bool = False
    """Whether the cells are right-aligned."""


Reduction = tuple[str, int | None]
"""A column by name, and the number of its variant to use, or None to omit it."""


@dataclass(frozen=True, slots=True)
class _Cells:
    """One column as it is printed: header and cells."""

    cells: Sequence[str]
    is_right: bool
    width: int

    def padded(self) -> Iterator[str]:
        for cell in self.cells:
            padding = " " * (self.width - display_width(cell))
            yield padding + cell if self.is_right else cell + padding


def terminal_width() -> int | None:
    """Return the columns that standard output has: $COLUMNS, else those of the terminal.

    None if neither is known: a pipe or a file has no limit.
    """
    given = os.environ.get("COLUMNS", "")
    if given.isascii() and given.isdigit() and int(given) > 0:
        return int(given)
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or None
    except (OSError, ValueError):
        return None


def display_width(text: str) -> int:
    """Return the cells of a terminal that *text* takes; CJK characters take two."""
    if text.isascii():
        return len(text)
    return sum(map(_width, text))


def _width(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def shortened(text: str, width: int) -> str:
    """Return *text*, cut to *width* cells; the end becomes an ellipsis."""
    if display_width(text) <= width:
        return text
    kept, used = "", 1
    for character in text:
        used += _width(character)
        if used > width:
            break
        kept += character
    return f"{kept}…"


def fitting_lines(
    columns: Sequence[Column],
    reductions: Sequence[Reduction],
    width: int | None,
    heading: str,
) -> Iterator[str]:
    """Yield the lines of a table that is at most *width* wide, if its reductions suffice.

    The reductions are made one after the other until the table fits. Where that saves several of
    them, the cells of the column *heading* become lines of their own above their rows instead.
    Cells must be printable.
    """
    table, count = _reduced(columns, reductions, width)
    (headings,) = (column.variants[-1] for column in columns if column.name == heading)
    rest = [column for column in columns if column.name != heading]
    below, count_below = _reduced(rest, reductions, None if width is None else width - len(_GAP))
    if count - count_below < _WORTH_HEADINGS:
        yield from _lines(table)
        return
    header, *lines = _lines(below)
    yield _GAP + header
    before = None
    for name, line in zip(headings, lines, strict=True):
        if name != before:
            yield name
        before = name
        yield _GAP + line


def _reduced(
    columns: Sequence[Column], reductions: Sequence[Reduction], width: int | None
) -> tuple[Sequence[_Cells], int]:
    """Return the columns that fit, and the number of reductions that this takes.

    If all reductions do not suffice, the number is so large that headings are worth it.
    """
    chosen = {column.name: _cells(column, 0) for column in columns}
    by_name = {column.name: column for column in columns}
    for count, (name, variant) in enumerate(reductions):
        if width is None or _total(chosen) <= width:
            return list(chosen.values()), count
        if name not in chosen:
            continue
        if variant is None:
            del chosen[name]
        else:
            chosen[name] = _cells(by_name[name], variant)
    fits = width is None or _total(chosen) <= width
    return list(chosen.values()), len(reductions) + (0 if fits else _WORTH_HEADINGS)


def _cells(column: Column, variant: int) -> _Cells:
    cells = [column.name.upper(), *column.variants[variant]]
    return _Cells(cells, column.is_right, max(map(display_width, cells)))


def _total(chosen: Mapping[str, _Cells]) -> int:
    return sum(cells.width for cells in chosen.values()) + len(_GAP) * (len(chosen) - 1)


def _lines(columns: Iterable[_Cells]) -> Iterator[str]:
    for row in zip(*(column.padded() for column in columns), strict=True):
        yield _GAP.join(row).rstrip()


def printable_cells(cells: Sequence[str]) -> list[str]:
    """Return *cells* with unprintable characters escaped."""
    return [printable(cell) for cell in cells]
