"""The leases that one worker holds: what open files need is not pruned."""

import threading
from collections.abc import Callable
from contextlib import ExitStack

from cbtfs.core.ids import PointId
from cbtfs.errors import PointNotFound
from cbtfs.mount.open_counts import OpenCounts
from cbtfs.store.points import PointFolder


class Leases:
    """Leases of points with open files; safe to use from several threads.

    Each worker takes one of its own when it first reads from a point, and keeps it for as long
    as any worker has a file of it open: whichever is killed, the others hold on.
    """

    def __init__(
        self, folder: PointFolder, shared: OpenCounts, dropped: Callable[[PointId], None]
    ) -> None:
        """*dropped* is told of each point whose lease ended."""
        self._folder = folder
        self._shared = shared
        self._dropped = dropped
        self._lock = threading.Lock()
        self._held: dict[PointId, ExitStack] = {}

    def take_all(self) -> None:
        """Lease every point that has open files: what a worker does that takes another's place."""
        for point in self._shared.points():
            try:
                self.take(point)
            except PointNotFound:
                continue

    def open(self, point: PointId) -> None:
        """Lease *point* and count a file of it as open; PointNotFound if it is forgotten.

        A forgotten point can be opened again only while it is open: nobody else keeps a prune off.
        """
        is_open = self._shared.is_open(point)
        self._shared.add(point)
        try:
            self.take(point, is_open=is_open)
        except BaseException:
            self._shared.remove(point)
            raise

    def take(self, point: PointId, *, is_open: bool = True) -> None:
        """Have a lease of a point with open files; PointNotFound if it is gone.

        *is_open*: a forgotten point will do, as another worker has a lease of it.
        """
        with self._lock:
            if point not in self._held:
                with ExitStack() as stack:
                    stack.enter_context(self._folder.leased(point, is_open=is_open))
                    self._held[point] = stack.pop_all()

    def close(self, point: PointId) -> None:
        """Count a file of *point* as closed."""
        self._shared.remove(point)
        self.drop_unused()

    def drop_unused(self) -> None:
        """Let go of points that no worker has open files of."""
        with self._lock:
            for point in [each for each in self._held if not self._shared.is_open(each)]:
                self._held.pop(point).close()
                self._dropped(point)
