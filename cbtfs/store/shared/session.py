"""The runs of one process: each has an intent, from before the process looks until its commit."""

import logging
from contextlib import ExitStack, suppress

from cbtfs.core.shared import Intent, RunId, encode_intent, tag_of
from cbtfs.errors import CbtfsError
from cbtfs.store.identity import new_id
from cbtfs.store.shared.origin import this_process
from cbtfs.store.shared.places import Places
from cbtfs.store.shared.requests import content_of, create_own

log = logging.getLogger(__name__)


class Session:
    """Runs that may commit. Not safe to use from several threads.

    The session has an intent of its own, which never commits and exists longer than the others. It
    shows that the process lives.
    """

    def __init__(self, places: Places) -> None:
        self._places = places
        self._stack = ExitStack()
        self._free: list[RunId] = []
        self._open: set[RunId] = set()
        self.id = ""
        """Id of the session; empty until it announces a run."""

    @property
    def tag(self) -> str:
        """End of the names of the packs that this session writes."""
        return tag_of(self.id)

    def is_fenced(self) -> bool:
        """Return whether a prune has removed the intent of the session.

        A prune does so before its verdict names a pack of this session.
        """
        return content_of(self._places.intents, self.id) is None

    def announce(self, count: int) -> list[RunId]:
        """Create the intents of *count* new runs. The caller must look afterwards.

        Raises:
            OSError: the storage failed.
        """
        self._begin()
        runs = [RunId(new_id()) for _ in range(count)]
        for run in runs:
            self._open.add(run)
            create_own(self._places.intents, run, self._intent(run))
            self._free.append(run)
        return runs

    def _begin(self) -> None:
        while not self.id:
            session = new_id()
            create_own(self._places.intents, session, self._intent(RunId(session), session))
            with suppress(FileNotFoundError):  # A prune has removed it before it was locked.
                self._stack.enter_context(self._places.presence.writing(session))
                self.id = session

    def _intent(self, run: RunId, session: str = "") -> bytes:
        return encode_intent(Intent(run, session or self.id, this_process()))

    def take(self) -> RunId | None:
        """Return a run that has not begun to commit; None after the last one."""
        return self._free.pop(0) if self._free else None

    def claim(self, run: RunId) -> bool:
        """Return whether *run* is one of this session, and take it."""
        if run in self._free:
            self._free.remove(run)
        return run in self._open

    def finish(self, run: RunId) -> None:
        """Delete the intent of *run*: its commit is decided, or was never sent."""
        self._open.discard(run)
        self._drop(run)

    def leave(self, run: RunId) -> None:
        """Keep the intent of *run*, whose commit may still happen; a prune decides about it."""
        self._open.discard(run)

    def _drop(self, name: str) -> None:
        try:
            self._places.intents.delete(name)
        except (OSError, CbtfsError) as exc:
            log.warning("intent %s stays until a prune removes it: %s", name, exc)

    def close(self) -> None:
        """Delete the intents of the runs that have not sent a commit."""
        for run in [*self._open]:
            self.finish(run)
        if self.id:
            self._drop(self.id)
            with suppress(OSError, CbtfsError):
                self._places.presence.ended(self.id)
        self._stack.close()
