"""Markers of restores: a sealed file that says which content a file holds.

The marker `applying` of a restore in place is durable before the first write to the file, and
`complete` is written after the last flush. A restore of a whole file removes an earlier marker
before its first write, and writes one at its end only if the user asks for it. A file is trusted to
hold a disk only if its marker is complete and nothing has changed the file since: its inode, size
and times are the recorded ones, and the host was not restarted. After a power failure, blocks may
be newer than the times of their file.
"""

import os
import stat
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from cbtfs.core.ids import PointId
from cbtfs.core.manifest import DiskRecord
from cbtfs.core.sealed import seal, unseal
from cbtfs.errors import DataCorrupt, SourceMismatch, TargetFailed, UsageError
from cbtfs.restore.disk import refuse_inside
from cbtfs.store.files import load_file, replace, sync_folder

SUFFIX: Final = ".cbtfs"
_KIND: Final = "cbtfs-restore-marker"
_MAX_BYTES: Final = 64 << 10
_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")
_CLOCK_REALTIME_COARSE: Final = 5
"""The clock of file times (linux/time.h); Python has no name for it."""
_TICK_NS: Final = 10_000_000
"""Resolution of that clock with 100 timer ticks a second, the coarsest of Linux."""
_SECOND_NS: Final = 1_000_000_000
_MAX_WAIT_SECONDS: Final = 5.0


class Marked(Protocol):
    """A target that can have a marker if it is a regular file."""

    @property
    def name(self) -> str:
        """Name for messages."""

    @property
    def path(self) -> Path | None:
        """Path of a regular file; None for other targets."""

    def facts(self) -> os.stat_result:
        """Return the attributes of the regular file."""


@dataclass(frozen=True, slots=True)
class NamedFile:
    """A file that a restore creates or overwrites, by its name."""

    path: Path

    @property
    def name(self) -> str:
        return str(self.path)

    def facts(self) -> os.stat_result:
        try:
            return os.stat(self.path)
        except OSError as exc:
            raise TargetFailed(f"{self.name} disappeared: {exc.strerror}") from exc


class Marker:
    """The marker of one file."""

    def __init__(self, target: Marked, state: Path | None, repository: Path) -> None:
        """*state* is the path of the marker, by default that of the target with a suffix.

        Raises:
            UsageError: *state* is the target, in the repository, or a file that is not a marker.
        """
        if target.path is None:
            raise UsageError(f"{target.name} is not a regular file: only a file can have a marker")
        self._target = target
        self.path = state or target.path.with_name(target.path.name + SUFFIX)
        refuse_inside(repository, self.path)
        if self.path.resolve() == target.path.resolve():
            raise UsageError(f"{self.path} is the target: name another file for --state")
        self._document = self._load()

    def _load(self) -> Mapping[str, Any] | None:
        try:
            document = unseal(load_file(self.path, _MAX_BYTES))
            if document.get("kind") != _KIND:
                raise ValueError("it has another kind")
        except FileNotFoundError:
            return None
        except (ValueError, DataCorrupt, NotADirectoryError) as exc:
            raise UsageError(
                f"{self.path} is not a marker of a restore ({exc}): move it away, or name another "
                "file with --state"
            ) from exc
        return document

    @property
    def is_new(self) -> bool:
        """Whether the content of the file may come from another program than a restore in place.

        A restore that did not end changes the times of the file, so they are not compared then.
        """
        document = self._document or {}
        recorded = document.get("file")
        if not isinstance(recorded, dict):
            return True
        facts = _facts(self._target.facts())
        names = facts if document.get("state") == "complete" else _IDENTITY
        return any(recorded.get(name) != facts[name] for name in names)

    def refuse_misfit(self, base: DiskRecord, name: str) -> None:
        """Raise SourceMismatch unless the target holds the content of *base*, named *name*."""
        why = self._misfit(base, name)
        if why is not None:
            raise SourceMismatch(
                f"{self._target.name} may not hold {name}: {why}; use --compare instead of --from"
            )

    def _misfit(self, base: DiskRecord, name: str) -> str | None:
        document = self._document
        if document is None:
            return f"{self.path} does not exist"
        if document.get("state") != "complete":
            return f"{self.path} is of a restore that did not end"
        if document.get("content") != _content(base):
            return f"{self.path} names another content than that of {name}"
        if document.get("boot") != _boot():
            return "the host was restarted after the last restore"
        recorded = document.get("file")
        for fact, value in _facts(self._target.facts()).items():
            if not isinstance(recorded, dict) or recorded.get(fact) != value:
                return f"its {fact} changed after the last restore"
        return None

    def begin(self, point: PointId, record: DiskRecord) -> None:
        """Record durably that the target is about to change."""
        self._replace(
            {
                "state": "applying",
                "point": point,
                "content": _content(record),
                "file": _facts(self._target.facts()),
            }
        )

    def discard(self) -> None:
        """Remove an earlier marker durably, because the target is about to be overwritten."""
        if self._document is None:
            return
        try:
            with suppress(FileNotFoundError):
                self.path.unlink()
            sync_folder(self.path.parent)
        except OSError as exc:
            raise TargetFailed(f"cannot remove {self.path}: {exc.strerror}") from exc

    def complete(
        self, point: PointId, record: DiskRecord, written: os.stat_result | None = None
    ) -> None:
        """Record durably that the flushed target holds the disk.

        *written*: attributes of the file after its last write; it may have been renamed since.

        Raises:
            TargetFailed: another program changed the target meanwhile.
        """
        facts = _facts(self._target.facts())
        before = facts if written is None else _facts(written) | {"ctime_ns": facts["ctime_ns"]}
        _wait_beyond(facts["mtime_ns"], facts["ctime_ns"])
        if not facts == before == _facts(self._target.facts()):
            raise TargetFailed(
                f"another program writes to {self._target.name}: end it, and run the command again"
            )
        self._replace(
            {
                "state": "complete",
                "point": point,
                "content": _content(record),
                "file": facts,
                "boot": _boot(),
            }
        )

    def _replace(self, document: Mapping[str, Any]) -> None:
        try:
            replace(self.path, seal({"kind": _KIND, "version": 1, **document}))
        except OSError as exc:
            raise TargetFailed(
                f"cannot write {self.path}: {exc.strerror}; name another file with --state"
            ) from exc


def marker_of_file(path: Path, state: Path | None, repository: Path) -> Marker:
    """Return the marker of a file that a restore is to create or to overwrite.

    Raises:
        UsageError: *path* exists and is no regular file, or the marker is unsuitable.
    """
    with suppress(OSError):
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise UsageError(f"{path} is not a regular file: only a file can have a marker")
    return Marker(NamedFile(path), state, repository)


def _content(record: DiskRecord) -> dict[str, Any]:
    """Return what identifies the bytes of a disk (docs/architecture.md, "Data flow")."""
    return {"root": record.root.hex(), "size": record.size, "block_size": record.block_size}


_IDENTITY: Final = ("device", "inode")


def _facts(facts: os.stat_result) -> dict[str, int]:
    return {
        "device": facts.st_dev,
        "inode": facts.st_ino,
        "size": facts.st_size,
        "mtime_ns": facts.st_mtime_ns,
        "ctime_ns": facts.st_ctime_ns,
    }


def _boot() -> str:
    return _BOOT.read_text().strip()


def _wait_beyond(*times: int) -> None:
    """Wait until a write would get a later time than *times*, in nanoseconds.

    File times have the resolution of a clock tick, or of a second or two on some file systems. A
    time in the future is passed over: a write changes it.
    """
    newest = max(times)
    is_coarse = all(moment % _SECOND_NS == 0 for moment in times)
    due = newest + (2 * _SECOND_NS if is_coarse else _TICK_NS)
    limit = time.monotonic() + _MAX_WAIT_SECONDS
    while time.monotonic() < limit:
        now = time.clock_gettime_ns(_CLOCK_REALTIME_COARSE)
        if now > due or newest > now + _SECOND_NS:
            return
        time.sleep(0.001)
