"""A repository for reading: restore points and their disks."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from cbtfs import listing
from cbtfs.api.disk import DiskFile, Readers
from cbtfs.api.read_ahead import LOADERS
from cbtfs.core.manifest import DiskRecord
from cbtfs.core.moment import parse_moment
from cbtfs.errors import UsageError
from cbtfs.listing import current_clock, find_disk, find_points, labelled, matching, no_vm, vm_names
from cbtfs.reader import Reader
from cbtfs.store import repository as store


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk or small file of a VM at a restore point."""

    label: str
    """Name that the disk has in commands; unique within the point."""
    id: str
    """32 hexadecimal digits; the same at all points of the disk."""
    kind: Literal["disk", "file"]
    """`file` is a small file of the VM, such as its `.vmx`."""
    size: int
    """Size in bytes."""
    block_size: int
    """Size in bytes of the blocks of `DiskFile.extents()` and `DiskFile.diff()`."""
    data_bytes: int
    """Bytes in blocks that are not zeros."""


@dataclass(frozen=True, slots=True)
class Point:
    """A restore point: all disks of one VM at one moment."""

    id: str
    """32 hexadecimal digits."""
    vm: str
    """Name by which commands know the VM now."""
    vm_id: str
    """32 hexadecimal digits; the same at all points of the VM."""
    name: str
    """Name of the point in a mount; `VM@NAME` names the point in commands."""
    time: datetime
    """Moment of the content, in UTC."""
    kind: Literal["full", "incremental"]
    """`full` if any disk was read whole."""
    state: tuple[str, ...]
    """Any of `missing`, `damaged`, `suspect` and `protected`."""
    tags: tuple[str, ...]
    disks: tuple[Disk, ...]
    _listed: listing.Point = field(repr=False, compare=False)

    def __str__(self) -> str:
        return f"{self.vm}@{self.name}"


class Repository:
    """An open repository, for reading. Use it as a context manager, or call close().

    Several threads may use it at once. A process opens a repository once; a child process made by
    fork() opens it for itself.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open the repository at *path*.

        Raises:
            RepositoryNotFound: *path* is not a repository.
            UsageError: this process has opened it already.
            AccessDenied: permissions are insufficient.
        """
        self._process = os.getpid()
        self._is_closed = False
        with ExitStack() as stack:
            try:
                self._store = stack.enter_context(store.reading(Path(path)))
            except RuntimeError as exc:
                raise UsageError(f"{os.fspath(path)} is open in this process already") from exc
            self._reader = Reader(self._store)
            self._uncached = Reader(self._store, cache_bytes=0)
            self._pool = ThreadPoolExecutor(LOADERS, "cbtfs")
            stack.callback(self._pool.shutdown, cancel_futures=True)
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the repository. Its open files raise ValueError from then on."""
        if not self._is_closed and self._process == os.getpid():
            self._is_closed = True
            self._stack.close()

    def points(self, vm: str | None = None) -> list[Point]:
        """Return the restore points of each VM in order of capture, those of *vm* only if given.

        *vm* is a name of a VM, or a pattern such as `web*`.

        Raises:
            PointNotFound: no VM has the name.
        """
        self._refresh()
        listed_points: list[listing.Point] = []
        with self._store.catalog.view() as view:
            names = vm_names(view)
            named_vms = names.named_vms if vm is None else matching(names, vm)
            if vm is not None and not named_vms:
                raise no_vm(names, vm)
            for named in sorted(named_vms, key=lambda b: (names.labels[b.vm.id], b.vm.id)):
                listed_points += [
                    labelled(point, names) for point in listing.points(view, named.vm.id)
                ]
        return [_point(point) for point in listed_points]

    def find(self, name: str, *, time_zone: str = "local") -> list[Point]:
        """Return the points that *name* means: one, or one of each VM that a pattern matches.

        The names are those of commands: `web01`, `web01@latest~1`, `web01@good`, `web01@-2d`,
        `web01@2026-11-20T14:00`, the start of an id, `web*@latest`. Times without an offset are
        in *time_zone*, e.g. `Europe/Berlin`.

        Raises:
            PointNotFound: *name* means no point, or several that it does not tell apart.
            UsageError: there is no such time zone.
        """
        self._refresh()
        return [_point(p) for p in find_points(self._store, name, current_clock(time_zone))]

    def point(self, name: str, *, time_zone: str = "local") -> Point:
        """Return the one point that *name* means. Raises what find() raises."""
        self._refresh()
        clock = current_clock(time_zone)
        return _point(listing.find_point(self._store, name, clock))

    def open(self, point: Point | str, disk: str) -> DiskFile:
        """Open the disk with that label or id at a point, or at the point that a name means.

        Raises:
            PointNotFound: there is no such point or disk, or the point was forgotten.
        """
        resolved = self.point(point) if isinstance(point, str) else point
        self._check()
        record = find_disk(resolved._listed, disk)
        with ExitStack() as lease:
            lease.enter_context(self._store.points.leased(resolved._listed.manifest.point))
            readers = Readers(
                self._reader.disk(record), self._uncached.disk(record), self._pool, self._check
            )
            return DiskFile(readers, lease.pop_all())

    def _check(self) -> None:
        if self._is_closed:
            raise ValueError("the repository is closed")
        if self._process != os.getpid():
            raise ValueError("the repository was opened by another process: open it after fork()")

    def _refresh(self) -> None:
        """Follow a catalog that was replaced."""
        self._check()
        self._reader.refresh()
        self._uncached.refresh()


def open_repository(path: str | os.PathLike[str]) -> Repository:
    """Open the repository at *path* for reading. Raises what Repository() raises."""
    return Repository(path)


def _point(point: listing.Point) -> Point:
    manifest = point.manifest
    return Point(
        manifest.point,
        point.vm_label or manifest.vm.name,
        manifest.vm.id,
        manifest.name,
        parse_moment(manifest.time),
        manifest.kind,
        tuple(point.marks),
        tuple(point.state.tags),
        tuple(map(_disk, manifest.disks)),
        point,
    )


def _disk(record: DiskRecord) -> Disk:
    return Disk(
        record.label, record.id, record.kind, record.size, record.block_size, record.data_bytes
    )
