"""The status of a running mount in the file .cbtfs/status.json, which no listing shows."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final

from cbtfs import __version__, listing
from cbtfs.core.manifest import Manifest
from cbtfs.core.moment import format_moment
from cbtfs.errors import CbtfsError, PointNotFound
from cbtfs.mount.entry import STATUS_DIRECTORY, STATUS_FILE, Entry, EntryType
from cbtfs.mount.guest_files import FileSystemWithGuestFiles
from cbtfs.mount.inodes import EXTRA, ROOT, STATUS_BASE, inode_of
from cbtfs.mount.worker_stats import WorkerStats
from cbtfs.store.repository import Repository

_DIRECTORY_INODE: Final = inode_of(STATUS_BASE)
_FILE_INODE: Final = inode_of(STATUS_BASE, EXTRA)
_PADDING_BYTES: Final = 4096
"""The file is padded with spaces to a multiple, so that its size is stable."""


@dataclass(frozen=True, slots=True)
class MountInfo:
    """Members of the status that are constant for the life of a mount."""

    repository: str
    mountpoint: str
    process: int
    since: str


class FileSystemWithStatus:
    """Add the status file to a file system, and publish the statistics of this worker."""

    def __init__(
        self,
        file_system: FileSystemWithGuestFiles,
        repository: Repository,
        stats: WorkerStats,
        mount_info: MountInfo,
    ) -> None:
        self._file_system = file_system
        self._catalog = repository.catalog
        self._stats = stats
        self._mount_info = mount_info
        self._points: tuple[bytes | None, dict[str, Any]] = (None, {})
        self.target = file_system.target
        stats.register()

    # Names

    def lookup(self, parent: int, name: str) -> Entry | None:
        if parent == ROOT and name == STATUS_DIRECTORY:
            return self._directory()
        if parent == _DIRECTORY_INODE:
            return self._file() if name == STATUS_FILE else None
        return self._file_system.lookup(parent, name)

    def entry(self, inode: int) -> Entry:
        if inode == _DIRECTORY_INODE:
            return self._directory()
        return self._file() if inode == _FILE_INODE else self._file_system.entry(inode)

    def entries(self, inode: int, after: int) -> Iterator[tuple[Entry, int]]:
        if inode == _DIRECTORY_INODE:
            return iter([(self._file(), EXTRA)] if after < EXTRA else [])
        return self._file_system.entries(inode, after)

    def _directory(self) -> Entry:
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
        with self._counting_errors():
            return self._file_system.read(inode, offset, length)

    def prepare_seek(self, inode: int, offset: int) -> int | None:
        if inode == _FILE_INODE:
            return len(self._content())
        with self._counting_errors():
            return self._file_system.prepare_seek(inode, offset)

    @contextmanager
    def _counting_errors(self) -> Iterator[None]:
        try:
            yield
        except PointNotFound:
            raise
        except CbtfsError:
            self._stats.count_error()
            raise

    def run_periodic_work(self) -> None:
        """End unused leases, close deleted packs and publish statistics. Call once a second."""
        self._file_system.leases.drop_unused()
        self._file_system.refresh()
        self._stats.update(self._file_system.cached_bytes)

    # The document

    def _content(self) -> bytes:
        self._stats.update(self._file_system.cached_bytes)
        document = {
            **asdict(self._mount_info),
            "program": __version__,
            "workers": [asdict(worker) for worker in self._stats.workers()],
            "restarts": max(self._stats.started - len(self._stats.workers()), 0),
            "errors": self._stats.errors,
            "open_points": self._file_system.open_points,
            **self._points_summary(),
        }
        text = json.dumps(document, indent=2).encode()
        return text + b" " * (-(len(text) + 1) % _PADDING_BYTES) + b"\n"

    def _points_summary(self) -> dict[str, Any]:
        """Return counts of VMs and points, and the suspect and damaged points."""
        with self._catalog.view() as view:
            version = view.points_version
            if version != self._points[0]:
                by_mark: dict[str, list[dict[str, str]]] = {"suspect": [], "damaged": []}
                count = 0
                for point in sorted(listing.points(view), key=_by_vm):
                    count += 1
                    for mark in by_mark.keys() & set(point.marks):
                        by_mark[mark].append(_named(point.manifest))
                summary = {"vms": len(view.vms()), "points": count, **by_mark}
                self._points = version, summary
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
    """Return the constant members of the status of a mount that starts now."""
    now = format_moment(datetime.now(UTC).replace(microsecond=0))
    return MountInfo(repository, mountpoint, process, now)
