"""Leases of one worker, which keep prune from deleting the objects of open files."""

import threading
from collections.abc import Callable
from contextlib import ExitStack

from cbtfs.core.ids import PointId
from cbtfs.errors import PointNotFound
from cbtfs.mount.open_counts import OpenCounts
from cbtfs.store.points import Points


class Leases:
    """Leases of points with open files; safe to use from several threads.

    Each worker takes its own lease of a point at its first read and keeps it while any worker has a
    file of the point open. If a worker is killed, the leases of the others remain.
    """

    def __init__(
        self, folder: Points, open_counts: OpenCounts, on_dropped: Callable[[PointId], None]
    ) -> None:
        """*on_dropped* is called for each point whose lease ends."""
        self._folder = folder
        self._open_counts = open_counts
        self._on_dropped = on_dropped
        self._lock = threading.Lock()
        self._held: dict[PointId, ExitStack] = {}

    def take_all(self) -> None:
        """Lease every point that has open files, as a replacement of a dead worker must."""
        for point in self._open_counts.points():
            try:
                self.take(point)
            except PointNotFound:
                continue

    def open(self, point: PointId) -> None:
        """Lease *point* and count an open file.

        A forgotten point can be opened only while it has open files: no other lease protects it.

        Raises:
            PointNotFound: the point is forgotten, or does not exist.
        """
        is_open = self._open_counts.is_open(point)
        self._open_counts.add(point)
        try:
            self.take(point, is_open=is_open)
        except BaseException:
            self._open_counts.remove(point)
            raise

    def take(self, point: PointId, *, is_open: bool = True) -> None:
        """Lease a point unless this worker has a lease already.

        *is_open*: accept a forgotten point, because another worker holds a lease.

        Raises:
            PointNotFound: the point does not exist.
        """
        with self._lock:
            if point not in self._held:
                with ExitStack() as stack:
                    stack.enter_context(self._folder.leased(point, is_open=is_open))
                    self._held[point] = stack.pop_all()

    def close(self, point: PointId) -> None:
        """Count a closed file of *point*."""
        self._open_counts.remove(point)
        self.drop_unused()

    def drop_unused(self) -> None:
        """End the leases of points without open files."""
        with self._lock:
            for point in [held for held in self._held if not self._open_counts.is_open(held)]:
                self._held.pop(point).close()
                self._on_dropped(point)
