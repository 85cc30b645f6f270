"""Progress on standard error: bars on a terminal, else a line a minute, or JSON documents."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Final, Protocol

from cbtfs.cli.report.display import Display, ProgressMode, display
from cbtfs.cli.report.meter import Meter, Unit
from cbtfs.cli.report.output import note
from cbtfs.core.names import printable

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

Advance = Callable[[int], None]
"""Callback with the number of units completed since the last call. Any thread may call it."""
Clock = Callable[[], float]
"""Seconds of a monotonic clock."""
StartWork = Callable[[str, int], Advance]
"""Starts to show a piece of work, by its name and its bytes."""

_LINE_SECONDS: Final = 60.0
_DOCUMENT_SECONDS: Final = 1.0


class Renderer(Protocol):
    """Shows meters. Calls come from one thread at a time."""

    def start(self, meter: Meter, now: float) -> None: ...

    def update(self, meter: Meter, now: float) -> None: ...

    def end(self, meter: Meter, now: float) -> None: ...


class Lines:
    """Prints a line a minute for each meter; nothing for work that takes less."""

    def __init__(self, write: Callable[[str], None] = note) -> None:
        self._write = write
        self._printed: dict[Meter, float] = {}

    def start(self, meter: Meter, now: float) -> None:
        self._printed[meter] = now

    def update(self, meter: Meter, now: float) -> None:
        if now - self._printed[meter] >= _LINE_SECONDS:
            self._printed[meter] = now
            self._write(f"{meter.what}: {meter.words(now)}")

    def end(self, meter: Meter, now: float) -> None:
        del self._printed[meter]


class Documents:
    """Prints a document at the start, at most once a second, and at the end of each meter."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._printed: dict[Meter, float] = {}

    def start(self, meter: Meter, now: float) -> None:
        self._print(meter, now)

    def update(self, meter: Meter, now: float) -> None:
        if now - self._printed[meter] >= _DOCUMENT_SECONDS and not meter.is_complete:
            self._print(meter, now)

    def end(self, meter: Meter, now: float) -> None:
        self._print(meter, now)
        del self._printed[meter]

    def _print(self, meter: Meter, now: float) -> None:
        self._printed[meter] = now
        self._write(json.dumps(meter.document(now)))


class Bars:
    """Draws a bar for each meter."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[Meter, TaskID] = {}

    def start(self, meter: Meter, now: float) -> None:
        name = printable(meter.what)
        self._tasks[meter] = self._bars.add_task(name, total=meter.total, meter=meter)

    def update(self, meter: Meter, now: float) -> None:
        self._bars.update(self._tasks[meter], completed=meter.done)

    def end(self, meter: Meter, now: float) -> None:
        self._bars.remove_task(self._tasks.pop(meter))


class Works:
    """Pieces of work that are shown by one renderer."""

    def __init__(
        self, renderer: Renderer, clock: Clock = time.monotonic, *, is_serial: bool = False
    ) -> None:
        """*is_serial*: a piece of work ends when the next one starts, complete or not."""
        self._renderer = renderer
        self._clock = clock
        self._is_serial = is_serial
        self._running: list[Meter] = []
        self._lock = Lock()

    def start(self, what: str, total: int, unit: Unit = Unit.BYTES) -> Advance:
        """Show a piece of work from now on, until it is complete."""
        now = self._clock()
        meter = Meter(what, total, unit, now)
        with self._lock:
            if self._is_serial:
                self._end_all(now)
            self._running.append(meter)
            self._renderer.start(meter, now)

        def advance(count: int) -> None:
            with self._lock:
                now = self._clock()
                meter.advance(count, now)
                if meter not in self._running:
                    return
                self._renderer.update(meter, now)
                if meter.is_complete and not self._is_serial:
                    self._end(meter, now)

        return advance

    def end(self) -> None:
        """End all pieces of work that are still shown."""
        with self._lock:
            self._end_all(self._clock())

    def _end_all(self, now: float) -> None:
        for meter in list(self._running):
            self._end(meter, now)

    def _end(self, meter: Meter, now: float) -> None:
        self._running.remove(meter)
        self._renderer.end(meter, now)


@contextmanager
def progress(
    what: str, total: int, *, is_wanted: bool = True, unit: Unit = Unit.BYTES
) -> Iterator[Advance]:
    """Show the progress of one piece of work.

    *is_wanted* is False under --json; --progress json shows it all the same.
    """
    with _works(is_wanted, is_serial=True) as works:
        yield _ignore if works is None else works.start(what, total, unit)


@contextmanager
def captures(*, is_wanted: bool, is_serial: bool) -> Iterator[StartWork]:
    """Show the progress of disks, one after the other or several at once."""
    with _works(is_wanted, is_serial=is_serial) as works:
        yield _start_nothing if works is None else works.start


@contextmanager
def _works(is_wanted: bool, *, is_serial: bool) -> Iterator[Works | None]:
    with _renderer(display(), is_wanted) as renderer:
        if renderer is None:
            yield None
            return
        works = Works(renderer, is_serial=is_serial)
        try:
            yield works
        finally:
            works.end()


@contextmanager
def _renderer(display: Display, is_wanted: bool) -> Iterator[Renderer | None]:
    if display.progress is ProgressMode.JSON:
        yield Documents(_print_document)
    elif display.progress is ProgressMode.NONE or display.is_quiet or not is_wanted:
        yield None
    elif not sys.stderr.isatty():
        yield Lines()
    else:
        with _drawn_bars() as bars:
            yield Bars(bars)


def _ignore(count: int) -> None:
    """Count nothing."""


def _start_nothing(what: str, total: int) -> Advance:
    return _ignore


def _print_document(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@contextmanager
def _drawn_bars() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
    from rich.text import Text

    class Words(ProgressColumn):
        """Sizes, rate and remaining time."""

        def render(self, task: Task) -> Text:
            meter: Meter = task.fields["meter"]
            return Text(meter.words(time.monotonic()), no_wrap=True)

    columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=20), Words())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        yield bars
