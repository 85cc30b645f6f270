"""The state of a live mount, as a file in it that no listing shows: .cbtfs/status.json."""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final

from cbtfs import __version__, listing
from cbtfs.core.manifest import Manifest
from cbtfs.core.moment import format_moment
from cbtfs.errors import CbtfsError, PointNotFound
from cbtfs.mount.entry import STATUS_DIRECTORY, STATUS_FILE, Entry, EntryType
from cbtfs.mount.filesystem import FileSystem
from cbtfs.mount.inodes import EXTRA, ROOT, STATUS_BASE, inode_of
from cbtfs.mount.worker_stats import WorkerStats
from cbtfs.store.repository import Repository

_DIRECTORY_INODE: Final = inode_of(STATUS_BASE)
_FILE_INODE: Final = inode_of(STATUS_BASE, EXTRA)
_PADDING_BYTES: Final = 4096
"""The file is padded with spaces to a multiple: its size stays while its numbers change."""


@dataclass(frozen=True, slots=True)
class MountInfo:
    """What stays the same for as long as a mount lasts."""

    repository: str
    mountpoint: str
    process: int
    since: str


class FileSystemWithStatus:
    """Adds the status to what a worker answers with, and keeps its own line on the board."""

    def __init__(
        self, file_system: FileSystem, repository: Repository, board: WorkerStats, facts: MountInfo
    ) -> None:
        self._file_system = file_system
        self._catalog = repository.catalog
        self._board = board
        self._facts = facts
        self._points: tuple[bytes | None, dict[str, Any]] = (None, {})
        self.target = file_system.target
        board.join()

    # Names

    def lookup(self, parent: int, name: str) -> Entry | None:
        if parent == ROOT and name == STATUS_DIRECTORY:
            return self._folder()
        if parent == _DIRECTORY_INODE:
            return self._file() if name == STATUS_FILE else None
        return self._file_system.lookup(parent, name)

    def entry(self, inode: int) -> Entry:
        if inode == _DIRECTORY_INODE:
            return self._folder()
        return self._file() if inode == _FILE_INODE else self._file_system.entry(inode)

    def entries(self, inode: int, after: int) -> Iterator[tuple[Entry, int]]:
        if inode == _DIRECTORY_INODE:
            return iter([(self._file(), EXTRA)] if after < EXTRA else [])
        return self._file_system.entries(inode, after)

    def _folder(self) -> Entry:
        return Entry(STATUS_DIRECTORY, _DIRECTORY_INODE, EntryType.DIRECTORY, time.time_ns())

    def _file(self) -> Entry:
        size = len(self._content())
        return Entry(STATUS_FILE, _FILE_INODE, EntryType.FILE, time.time_ns(), size, size)

    # Files

    def open(self, inode: int) -> Entry:
        return self._file() if inode == _FILE_INODE else self._file_system.open(inode)

    def close(self, inode: int) -> None:
        if inode != _FILE_INODE:
            self._file_system.close(inode)

    def prepare(self, inode: int, offset: int, length: int) -> bool:
        return inode != _FILE_INODE and self._file_system.prepare(inode, offset, length)

    def read(self, inode: int, offset: int, length: int) -> bytes | memoryview:
        if inode == _FILE_INODE:
            return self._content()[offset : offset + length]
        try:
            return self._file_system.read(inode, offset, length)
        except PointNotFound:
            raise
        except CbtfsError:
            self._board.count_error()
            raise

    def run_periodic_work(self) -> None:
        """What is to be done every second: end leases, free room, tell of this worker."""
        self._file_system.leases.drop_unused()
        self._file_system.refresh()
        self._board.tell(self._file_system.cached_bytes)

    # The document

    def _content(self) -> bytes:
        self._board.tell(self._file_system.cached_bytes)
        document = {
            **asdict(self._facts),
            "program": __version__,
            "workers": [asdict(worker) for worker in self._board.workers()],
            "restarts": max(self._board.started - len(self._board.workers()), 0),
            "errors": self._board.errors,
            "open_points": self._file_system.open_points,
            **self._of_points(),
        }
        text = json.dumps(document, indent=2).encode()
        return text + b" " * (-(len(text) + 1) % _PADDING_BYTES) + b"\n"

    def _of_points(self) -> dict[str, Any]:
        """Numbers, and the points not to be trusted; looked at again when any changed."""
        with self._catalog.view() as view:
            version = view.points_version
            if version != self._points[0]:
                marked: dict[str, list[dict[str, str]]] = {"suspect": [], "damaged": []}
                count = 0
                for point in sorted(listing.points(view), key=_by_vm):
                    count += 1
                    for mark in marked.keys() & set(point.marks):
                        marked[mark].append(_named(point.manifest))
                found = {"vms": len(view.vms()), "points": count, **marked}
                self._points = version, found
        return self._points[1]


def _by_vm(point: listing.Point) -> tuple[str, str, int]:
    manifest = point.manifest
    return manifest.vm.name, manifest.vm.id, manifest.order


def _named(manifest: Manifest) -> dict[str, str]:
    vm = manifest.vm
    return {
        "vm": vm.name,
        "point": manifest.point,
        "directory": vm.directory,
        "name": manifest.name,
        "time": manifest.time,
    }


def mount_info(repository: str, mountpoint: str, process: int) -> MountInfo:
    """The facts of a mount that begins now."""
    now = format_moment(datetime.now(UTC).replace(microsecond=0))
    return MountInfo(repository, mountpoint, process, now)
