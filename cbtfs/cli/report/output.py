"""Documents and tables on standard output; messages and progress on standard error."""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from cbtfs.cli.report.display import display
from cbtfs.core.names import printable
from cbtfs.errors import CbtfsError


class _Begun:
    """Whether a document was begun on standard output; `--json` prints one document only."""

    is_begun = False


def begin_output() -> None:
    """Start a command: nothing has been printed to standard output yet."""
    _Begun.is_begun = False


def emit_error(code: int, message: str, candidates: Iterable[str]) -> None:
    """Print an error as a JSON document, unless the command has begun another document.

    An error of standard output is ignored: the exit code and the message remain.
    """
    if _Begun.is_begun:
        return
    error = {"code": code, "message": message, "candidates": list(candidates)}
    try:
        emit({"error": error})
    except BrokenPipeError:
        _give_up_on_output()
    except CbtfsError as exc:
        say(str(exc))


@contextmanager
def _printing(*, is_begun: bool = True) -> Iterator[None]:
    """Turn errors of standard output into CbtfsError. Typer handles a broken pipe."""
    _Begun.is_begun = _Begun.is_begun or is_begun
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as exc:
        _give_up_on_output()
        raise CbtfsError(f"cannot write to standard output: {exc.strerror}") from exc


def _give_up_on_output() -> None:
    """Redirect standard output to /dev/null: the flush at exit would fail again."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def emit(document: Mapping[str, Any]) -> None:
    """Print a JSON document in ASCII, so that names cannot send control sequences."""
    with _printing():
        json.dump(document, sys.stdout, indent=2 if sys.stdout.isatty() else None)
        sys.stdout.write("\n")


def emit_items(items: Iterable[Mapping[str, Any]]) -> None:
    """Print a JSON array item by item, without collecting the items."""
    with _printing(is_begun=False):
        before = "["
        for item in items:
            _Begun.is_begun = True
            sys.stdout.write(before + json.dumps(item))
            before = ",\n"
        sys.stdout.write("]\n" if before != "[" else "[]\n")


def emit_line(document: Mapping[str, Any]) -> None:
    """Print a JSON document on one line, for output that is a document per line."""
    with _printing():
        sys.stdout.write(json.dumps(document) + "\n")


def say(text: str) -> None:
    """Print a message to standard error, with unprintable characters escaped."""
    print(f"cbtfs: {printable(text)}", file=sys.stderr, flush=True)


def note(text: str) -> None:
    """Print a message that is neither an error nor a warning, unless --quiet is given."""
    if not display().is_quiet:
        say(text)


def print_lines(lines: Iterable[str]) -> None:
    """Print lines to standard output, with unprintable characters escaped."""
    with _printing():
        for line in lines:
            sys.stdout.write(printable(line) + "\n")


def report(lines: Iterable[str]) -> None:
    """Print lines about what a command did, unless --quiet is given."""
    if not display().is_quiet:
        print_lines(lines)


def report_table(
    header: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[str] = ()
) -> None:
    """Print a table about what a command did, unless --quiet is given."""
    if not display().is_quiet:
        print_table(header, rows, right)


def print_table(
    header: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[str] = ()
) -> None:
    """Print a table: drawn on a terminal, else with aligned columns.

    The columns in *right* are right-aligned.
    """
    flush_right = frozenset(right)
    cells = [[printable(cell) for cell in row] for row in rows]
    with _printing():
        if sys.stdout.isatty():
            _draw(header, cells, flush_right)
        else:
            _align(header, cells, flush_right)


def _draw(header: Sequence[str], rows: list[list[str]], right: frozenset[str]) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE, pad_edge=False, show_edge=False)
    for name in header:
        table.add_column(name, justify="right" if name in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    console = Console()
    if _width(header, rows) > console.width:
        _align(header, rows, right)  # the terminal wraps the lines; names and ids stay whole
    else:
        console.print(table)


def _width(header: Sequence[str], rows: list[list[str]]) -> int:
    """Return the columns of the widest row, with gaps."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return sum(widths) + 2 * (len(widths) - 1)


def _align(header: Sequence[str], rows: list[list[str]], right: frozenset[str]) -> None:
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in ([name.upper() for name in header], *rows):
        cells = (
            cell.rjust(width) if name in right else cell.ljust(width)
            for name, cell, width in zip(header, row, widths, strict=True)
        )
        sys.stdout.write("  ".join(cells).rstrip() + "\n")
