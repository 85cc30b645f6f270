"""The places of a repository with shared writers."""

from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cbtfs.store.backend import layout
from cbtfs.store.backend.base import Backend, FileBackend
from cbtfs.store.backend.remote import is_remote
from cbtfs.store.shared.looks import Looks
from cbtfs.store.shared.presence import BeatPresence, FilePresence, Presence

LOOKS: Final = "locks/looks.json"


@dataclass(frozen=True, slots=True)
class Places:
    """The backends, one for each name space, and the presence of other processes."""

    points: Backend
    states: Backend
    logs: Backend
    intents: Backend
    prunes: Backend
    pins: Backend
    distrust: Backend
    presence: Presence
    looks: Callable[[], Looks]
    """Open the memory of prunes on this host."""
    close: Callable[[], None]


def open_places(repository: Path) -> Places:
    """Open the places of a repository.

    Raises:
        DataCorrupt: a directory is missing.
    """
    return _in_bucket(repository) if is_remote(repository) else _in_directory(repository)


def _in_bucket(repository: Path) -> Places:
    with ExitStack() as stack:

        def opened(name: str) -> Backend:
            return stack.enter_context(closing(layout.open_objects(repository, name)))

        holds, beats = opened(layout.HOLDS), opened(layout.BEATS)
        looks = Looks(repository / LOOKS)
        return Places(
            opened(layout.POINTS),
            opened(layout.STATES),
            opened(layout.LOGS),
            opened(layout.INTENTS),
            opened(layout.PRUNES),
            opened(layout.OVERLAYS),
            opened(layout.DISTRUST),
            BeatPresence(holds, beats, looks),
            lambda: looks,
            stack.pop_all().close,
        )


def _in_directory(repository: Path) -> Places:
    with ExitStack() as stack:

        def opened(name: str) -> FileBackend:
            return stack.enter_context(closing(layout.open_place(repository, name)))

        points, intents = opened(layout.POINTS), opened(layout.INTENTS)
        return Places(
            points,
            opened(layout.STATES),
            opened(layout.LOGS),
            intents,
            opened(layout.PRUNES),
            opened(layout.OVERLAYS),
            opened(layout.DISTRUST),
            FilePresence(points, intents),
            lambda: Looks(repository / LOOKS),
            stack.pop_all().close,
        )
