"""The files of points that one worker has open: a thread for each point calls its engines.

An engine takes one call at a time, and the kernel ends its process together with the thread that
started it (PR_SET_PDEATHSIG). So each point has a thread of its own, which lives as long as its
engines. A call that fails because its process died or hung is EIO; the next call starts another
process.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Final, TypeVar

from cbtfs.core.ids import PointId
from cbtfs.files.engines import Engine, Engines
from cbtfs.files.point import PointFiles, point_files
from cbtfs.mount.filesystem import FileSystem
from cbtfs.mount.tree import PointNode

_OPEN_POINTS: Final = 8
_OPEN_POINTS_WITH_APPLIANCE: Final = 2
"""The same if each of them can have an appliance, which takes 0.5 to 1 GB of memory."""
_IDLE_SECONDS: Final = 60.0
"""Time after which the engines of an unused point end."""
CALL_SECONDS: Final = 15.0
"""Longest time that a parser may compute for one call."""

Result = TypeVar("Result")


class _OpenPoint:
    """A point and its thread."""

    def __init__(self, point: PointId) -> None:
        self.used = time.monotonic()
        self._thread = ThreadPoolExecutor(1, f"files-{point[:12]}")
        self._stack = ExitStack()
        self._files: PointFiles | None = None

    def submit(
        self, load: Callable[[ExitStack], PointFiles], call: Callable[[PointFiles], Result]
    ) -> "Future[Result]":
        def run() -> Result:
            if self._files is None:
                self._files = load(self._stack)
            self.used = time.monotonic()
            return call(self._files)

        return self._thread.submit(run)

    def end(self) -> None:
        """End the engines after the calls that wait."""
        self._thread.submit(self._stack.close)
        self._thread.shutdown(wait=False)


class GuestPoints:
    """The points with open file systems. Safe to use from several threads."""

    def __init__(self, file_system: FileSystem, engines: Engines) -> None:
        self._file_system = file_system
        self._engines = engines
        is_parsing = engines.wanted is Engine.PARSE
        self._limit = _OPEN_POINTS if is_parsing else _OPEN_POINTS_WITH_APPLIANCE
        self._lock = threading.Lock()
        self._points: OrderedDict[PointId, _OpenPoint] = OrderedDict()

    def call(self, node: PointNode, do: Callable[[PointFiles], Result]) -> Result:
        """Return the result of *do* with the files of a point, in the thread of the point.

        Raises:
            CbtfsError: the files cannot be read, or the engine failed.
        """
        manifest = self._file_system.files_of(node).manifest

        def load(stack: ExitStack) -> PointFiles:
            reader = self._file_system.reader
            with ExitStack() as opened:
                files = opened.enter_context(
                    point_files(reader, manifest, None, self._engines, seconds=CALL_SECONDS)
                )
                stack.enter_context(opened.pop_all())
            return files

        with self._lock:
            point = self._points.get(node.point)
            if point is None:
                point = self._points[node.point] = _OpenPoint(node.point)
                if len(self._points) > self._limit:
                    self._points.popitem(last=False)[1].end()
            self._points.move_to_end(node.point)
            future = point.submit(load, do)
        return future.result()

    def drop_idle(self) -> None:
        """End the engines of points that were not used for a while. Call about once a second."""
        with self._lock:
            limit = time.monotonic() - _IDLE_SECONDS
            for name in [name for name, point in self._points.items() if point.used < limit]:
                self._points.pop(name).end()
