"""Presence: which runs may still commit, and which points have readers.

In a local directory, a lock of the kernel on an intent or a manifest shows that its process lives.
Objects have no locks: a process renews the beats of its intents and holds every hour, and a prune
ignores them after a day without a new beat, by its own clock (docs/decisions/0046).
"""

import logging
import threading
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Final, Protocol

from cbtfs.core.ids import PointId, is_id
from cbtfs.core.shared import (
    Hold,
    RunId,
    decode_hold,
    encode_beat,
    encode_hold,
    numbered,
)
from cbtfs.errors import CbtfsError, DataCorrupt
from cbtfs.store.backend.base import Backend, FileBackend
from cbtfs.store.identity import new_id
from cbtfs.store.shared.looks import Looks, boot_clock
from cbtfs.store.shared.numbered import all_numbers, drop_all, drop_lower, numbers_of
from cbtfs.store.shared.origin import this_process
from cbtfs.store.shared.requests import content_of, create_own

log = logging.getLogger(__name__)

RENEWAL_SECONDS: Final = 3600.0
VALID_SECONDS: Final = 20 * 3600.0
"""Age of the last renewal at which a reader stops using its hold."""


class HoldExpired(CbtfsError):
    """Raised by a reader whose hold could not be renewed in time."""


class Reading(Protocol):
    """A point that is being read."""

    @property
    def is_valid(self) -> bool:
        """Whether the point surely stays."""


class Presence(Protocol):
    """Locks or heartbeats of the processes that use a repository."""

    def reading(self, run: RunId, point: PointId) -> AbstractContextManager[Reading]:
        """Keep a point. The caller then verifies that it is listed.

        Raises:
            FileNotFoundError: its manifest is gone.
        """

    def read(self, runs: Collection[RunId]) -> set[RunId]:
        """Return those of *runs* that readers may need."""

    def holds(self) -> set[str]:
        """Return the ids of the holds that exist."""

    def writing(self, session: str) -> AbstractContextManager[None]:
        """Show that the runs of a session, whose intent exists, may still commit.

        Raises:
            FileNotFoundError: a prune has removed the intent.
        """

    def over(self, session: str) -> AbstractContextManager[bool]:
        """Return whether the runs of a session are stale, and may be fenced within the block."""

    def ended(self, session: str) -> None:
        """Remove what remains of the intent of a session, which was deleted."""


class _Locked:
    is_valid = True


class FilePresence:
    """Locks on manifests and intents, which the kernel releases with their process."""

    def __init__(self, points: FileBackend, intents: FileBackend) -> None:
        self._points = points
        self._intents = intents

    @contextmanager
    def reading(self, run: RunId, point: PointId) -> Iterator[Reading]:
        with self._points.lease(run):
            yield _Locked()

    def read(self, runs: Collection[RunId]) -> set[RunId]:
        used = set()
        for run in runs:
            with self._points.claim(run) as is_free:
                if not is_free:
                    used.add(run)
        return used

    def holds(self) -> set[str]:
        return set()

    def writing(self, session: str) -> AbstractContextManager[None]:
        return self._intents.lease(session)

    @contextmanager
    def over(self, session: str) -> Iterator[bool]:
        with self._intents.claim(session) as is_free:
            yield is_free or content_of(self._intents, session) is None

    def ended(self, session: str) -> None:
        """Do nothing: the lock went with the file."""


class _Renewal:
    """A thread that creates the next beat of a hold or a session until it is stopped."""

    def __init__(self, beats: Backend, name: str, since: float) -> None:
        """*since* is the time at which the request for the first heartbeat was sent."""
        self._beats = beats
        self._name = name
        self._stop = threading.Event()
        self._number = 0
        self._since = since
        self._is_over = False
        self._thread = threading.Thread(target=self._run, name="renewal", daemon=True)
        self._thread.start()

    @property
    def is_valid(self) -> bool:
        """Whether the last renewal that was answered in time is not too old."""
        return boot_clock() - self._since < VALID_SECONDS

    def _run(self) -> None:
        while not self._stop.wait(RENEWAL_SECONDS):
            self.renew()

    def renew(self) -> None:
        """Create the next beats; a renewal counts only while the last one is valid."""
        sent = boot_clock()
        if not self.is_valid:
            if not self._is_over:
                self._is_over = True
                log.error(
                    "the heartbeat of %s was not renewed for %d hours: a prune may remove "
                    "data that this program uses; start it again",
                    self._name,
                    VALID_SECONDS // 3600,
                )
            return
        number = self._number + 1
        try:
            beat = encode_beat(self._name, number)
            create_own(self._beats, numbered(self._name, number), beat)
        except (OSError, CbtfsError) as exc:
            log.warning("cannot renew %s: %s", self._name, exc)
            return
        self._number = number
        if self.is_valid:
            self._since = sent
        try:
            drop_lower(self._beats, self._name, number)
        except (OSError, CbtfsError) as exc:
            log.info("old beats stay: %s", exc)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


class BeatPresence:
    """Holds and intents with beats, for backends without locks."""

    def __init__(self, holds: Backend, beats: Backend, looks: Looks) -> None:
        self._holds = holds
        self._beats = beats
        self._looks = looks

    @contextmanager
    def reading(self, run: RunId, point: PointId) -> Iterator[Reading]:
        hold = Hold(new_id(), run, point, this_process())
        sent = boot_clock()
        # Once: a reader does not wait for a server that is away.
        self._holds.create(hold.id, encode_hold(hold))
        renewal = _Renewal(self._beats, hold.id, sent)
        try:
            yield renewal
        finally:
            renewal.stop()
            try:
                self._holds.delete(hold.id)
                drop_all(self._beats, hold.id)
            except OSError as exc:
                log.warning("hold %s stays until it expires: %s", hold.id, exc)

    def read(self, runs: Collection[RunId]) -> set[RunId]:
        numbers = all_numbers(self._beats)
        used = set()
        for name in filter(is_id, self._holds.names()):
            data = content_of(self._holds, name)
            if data is None:
                continue
            try:
                hold = decode_hold(data)
            except ValueError as exc:
                raise DataCorrupt(
                    f"hold {name} is damaged: {exc}; remove it once no reader uses the repository"
                ) from exc
            if self._looks.is_stale(name, max(numbers.get(name, [0]))):
                self._holds.delete(name)
                drop_all(self._beats, name)
            else:
                used.add(hold.run)
        return used & {*runs}

    def holds(self) -> set[str]:
        return {*filter(is_id, self._holds.names())}

    @contextmanager
    def writing(self, session: str) -> Iterator[None]:
        renewal = _Renewal(self._beats, session, boot_clock())
        try:
            yield
        finally:
            renewal.stop()

    @contextmanager
    def over(self, session: str) -> Iterator[bool]:
        numbers = numbers_of(self._beats, session)
        yield self._looks.is_stale(session, max(numbers, default=0))

    def ended(self, session: str) -> None:
        drop_all(self._beats, session)
