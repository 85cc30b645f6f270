"""Records of the runs that take snapshots, each locked while its run is alive.

A run writes its record before it takes a snapshot of a VM. The lock is a flock, which the kernel
releases with the process. So a record that can be locked belongs to a stale run, and its snapshot
may be removed. A snapshot without a record here belongs to somebody else.
"""

import fcntl
import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from cbtfs.core.ids import is_id
from cbtfs.core.sealed import MAX_BYTES
from cbtfs.store.files import FILE_MODE, load_file, make_folder, open_regular, replace, sync_folder
from cbtfs.store.folder import Folder
from cbtfs.store.owner import give_new
from cbtfs.store.storing import storing

_FOLDER: Final = "runs"
_MAX_BYTES: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class RunFacts:
    """The VM and the snapshot that a run uses."""

    run: str
    """32 hex digits."""
    server: str
    """Id of the vCenter or host."""
    vm: str
    """Id of the VM there."""
    snapshot: str
    """Name of the snapshot that the run takes."""
    holds: bool = False
    """Whether the run blocks storage vMotion of the VM under the snapshot's name."""


class Run:
    """A run: its record is locked until close() or the end of the process."""

    def __init__(self, folder: Folder, facts: RunFacts, fd: int) -> None:
        """*folder* is closed with the run."""
        self.facts = facts
        self._folder = folder
        self._fd = fd

    def finish(self) -> None:
        """Remove the record: the run has removed its snapshot."""
        _remove(self._folder.at / self.facts.run)

    def close(self) -> None:
        """Unlock the record. If it still exists, the run is stale from here on."""
        os.close(self._fd)
        self._folder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class RunFolder:
    """The directory locks/runs/ of a repository."""

    def __init__(self, repository: Path) -> None:
        self._repository = repository

    def _open(self) -> Folder:
        """Open the directory.

        Raises:
            FileNotFoundError: it does not exist.
            DataCorrupt: it or locks/ is a link.
        """
        with Folder(self._repository / "locks") as locks:
            return locks.inner(_FOLDER)

    def _make(self) -> Folder:
        with Folder(self._repository / "locks") as locks:
            make_folder(locks.at / _FOLDER)
            return locks.inner(_FOLDER)

    def start(self, facts: RunFacts) -> Run:
        """Write a durable, locked record; StoreFailed if that fails."""
        with storing("a run's record"):
            folder = self._make()
            fd = -1
            try:
                path = folder.at / facts.run
                flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                fd = os.open(path, flags, FILE_MODE)
                give_new(path, fd)
                # Wait: another run may lock the new record for a moment to read it.
                fcntl.flock(fd, fcntl.LOCK_EX)
                os.write(fd, encode_facts(facts))
                os.fsync(fd)
                sync_folder(folder.at)
            except BaseException:
                if fd >= 0:
                    os.close(fd)
                folder.close()
                raise
        return Run(folder, facts, fd)

    def dead(self, server: str, vm: str) -> list[RunFacts]:
        """Return the stale runs of a VM, which ended without removing their record."""
        return [f for f in self._unlocked() if f.server == server and f.vm == vm]

    def forget(self, facts: RunFacts) -> None:
        """Remove the record of a stale run, whose snapshot is removed."""
        with suppress(FileNotFoundError), self._open() as folder:
            _remove(folder.at / facts.run)

    def save_progress(self, run: str, data: bytes) -> None:
        """Write the progress of a run, for a run that resumes it; StoreFailed if that fails."""
        with storing("a run's progress"), self._make() as folder:
            replace(_progress_of(folder.at / run), data)

    def load_progress(self, run: str) -> bytes | None:
        """Return the progress of a run, or None; DataCorrupt if it cannot be read."""
        try:
            with self._open() as folder:
                return load_file(_progress_of(folder.at / run), MAX_BYTES)
        except FileNotFoundError:
            return None

    def _unlocked(self) -> list[RunFacts]:
        """Return the records that can be locked: their runs are stale."""
        unlocked: list[RunFacts] = []
        with suppress(FileNotFoundError), self._open() as folder:
            for name in filter(is_id, sorted(os.listdir(folder.at))):
                with suppress(OSError, ValueError):
                    facts = _load_unlocked(folder.at / name)
                    if facts.run == name:
                        unlocked.append(facts)
        return unlocked


def _progress_of(record: Path) -> Path:
    return record.with_name(f"{record.name}.progress")


def _remove(record: Path) -> None:
    """Remove the files of a run, the record last: the others are found by its name."""
    progress = _progress_of(record)
    for path in (progress.with_name(f"{progress.name}.tmp"), progress, record):
        path.unlink(missing_ok=True)


def _document(facts: RunFacts) -> dict[str, object]:
    """Omit members that do not apply: older programs skip a record with an unknown member."""
    document = asdict(facts)
    if not facts.holds:
        del document["holds"]
    return document


def decode_facts(data: bytes) -> RunFacts:
    """Decode a record; ValueError if a member is absent, unknown or of the wrong type."""
    try:
        document = json.loads(data)
        facts = RunFacts(**document)
    except (TypeError, RecursionError) as exc:
        raise ValueError("not the record of a run") from exc
    words = (facts.run, facts.server, facts.vm, facts.snapshot)
    if not (all(isinstance(word, str) for word in words) and isinstance(facts.holds, bool)):
        raise ValueError("not the record of a run")
    return facts


def encode_facts(facts: RunFacts) -> bytes:
    return json.dumps(_document(facts)).encode()


def _load_unlocked(path: Path) -> RunFacts:
    """Return the record at *path*; BlockingIOError if its run is alive."""
    fd = open_regular(path)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return decode_facts(os.pread(fd, _MAX_BYTES, 0))
    finally:
        os.close(fd)
