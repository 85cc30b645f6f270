"""Leases of one worker, which keep prune from deleting the objects of open files."""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final

from cbtfs.core.ids import PointId
from cbtfs.errors import CbtfsError, PointNotFound
from cbtfs.mount.open_counts import OpenCounts
from cbtfs.store.backend.base import NoReply
from cbtfs.store.points import Points

log = logging.getLogger(__name__)

_RETRY_SECONDS: Final = 30.0


class Leases:
    """Leases of points with open files; safe to use from several threads.

    If the server of a bucket does not answer, files open without a lease, which is taken once it
    answers. Until then a prune elsewhere may delete packs of a point that was forgotten: reads then
    fail. They are verified, so they never return other bytes.

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
        self._tried: dict[PointId, float] = {}
        """When the lease of a point with open files was tried last, by the monotonic clock."""

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
            if point not in self._held and self._is_due(point):
                self._take(point, is_open=is_open)

    def _is_due(self, point: PointId) -> bool:
        tried = self._tried.get(point)
        return tried is None or time.monotonic() - tried >= _RETRY_SECONDS

    def _take(self, point: PointId, *, is_open: bool) -> None:
        with ExitStack() as stack:
            try:
                stack.enter_context(self._folder.leased(point, is_open=is_open))
            except NoReply as exc:
                log.info("point %s is read without a lease for now: %s", point, exc.strerror)
                self._tried[point] = time.monotonic()
                return
            self._held[point] = stack.pop_all()
        self._tried.pop(point, None)

    def _take_late(self, point: PointId) -> None:
        """Lease a point that is read already; if it is gone, reads fail."""
        try:
            self._take(point, is_open=True)
        except (CbtfsError, OSError) as exc:
            log.warning("point %s is read without a lease: %s", point, exc)
            self._tried[point] = time.monotonic()

    def close(self, point: PointId) -> None:
        """Count a closed file of *point*."""
        self._open_counts.remove(point)
        self.drop_unused()

    def drop_unused(self) -> None:
        """End the leases of points without open files, and take those that are due."""
        with self._lock:
            for point in [*self._tried]:
                if not self._open_counts.is_open(point):
                    del self._tried[point]
                elif self._is_due(point):
                    self._take_late(point)
            for point in [held for held in self._held if not self._open_counts.is_open(held)]:
                self._held.pop(point).close()
                self._on_dropped(point)
