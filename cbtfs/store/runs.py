"""Who is at work outside of the repository: a record for each run, locked as long as it lives.

A run that takes a snapshot of a VM leaves its record here first. The lock is a flock, which ends
with the process however that ends: a record that can be locked is of a dead run, and what it names
may be removed. A snapshot without a record here is another's.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from cbtfs.core.ids import is_id
from cbtfs.core.sealed import MAX_BYTES
from cbtfs.store.files import (
    FILE_MODE,
    load_file,
    make_folder,
    open_regular,
    replace,
    storing,
    sync_folder,
)
from cbtfs.store.folder import Folder
from cbtfs.store.owner import give_new

_FOLDER: Final = "runs"
_MAX_BYTES: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What a run does outside."""

    run: str
    """32 hex digits."""
    server: str
    """Which vCenter or host, by its own id."""
    vm: str
    """Which VM there, by its own id."""
    snapshot: str
    """The name of the snapshot that the run takes."""
    holds: bool = False
    """It keeps storage vMotion from the VM, in the name of the snapshot."""


class Run:
    """A run that lives: its record is locked until finish(), or the end of the process."""

    def __init__(self, folder: Folder, facts: RunFacts, fd: int) -> None:
        self.facts = facts
        self._folder = folder
        self._fd = fd

    def finish(self) -> None:
        """Nothing of the run is left outside: its record goes."""
        _remove(self._folder.at / self.facts.run)

    def close(self) -> None:
        """Let go of the record, which from here on is a dead run's."""
        os.close(self._fd)

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
    """locks/runs/ of a repository."""

    def __init__(self, repository: Path) -> None:
        self._repository = repository

    def _open(self) -> Folder | None:
        """The directory, if there is one; DataCorrupt if it, or locks/, is a link."""
        try:
            return Folder(self._repository / "locks").inner(_FOLDER)
        except FileNotFoundError:
            return None

    def _make(self) -> Folder:
        locks = Folder(self._repository / "locks")
        make_folder(locks.at / _FOLDER)
        return locks.inner(_FOLDER)

    def start(self, facts: RunFacts) -> Run:
        """A record that lasts from now on; StoreFailed if it cannot be made."""
        with storing("a run's record"):
            folder = self._make()
            path = folder.at / facts.run
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(path, flags, FILE_MODE)
            try:
                give_new(path, fd)
                # Wait: a run beside this one may hold the new record for a moment to look at it.
                fcntl.flock(fd, fcntl.LOCK_EX)
                os.write(fd, encode_facts(facts))
                os.fsync(fd)
                sync_folder(folder.at)
            except BaseException:
                os.close(fd)
                raise
        return Run(folder, facts, fd)

    def dead(self, server: str, vm: str) -> list[RunFacts]:
        """The runs on that VM that ended without having cleaned up."""
        return [f for f in self._unlocked() if f.server == server and f.vm == vm]

    def forget(self, facts: RunFacts) -> None:
        """Nothing of a dead run is left outside: its record goes."""
        folder = self._open()
        if folder is not None:
            _remove(folder.at / facts.run)

    def save_progress(self, run: str, data: bytes) -> None:
        """Let *data* be what a run leaves for the next one; StoreFailed if it cannot be kept."""
        with storing("a run's progress"):
            folder = self._make()
            replace(_progress_of(folder.at / run), data)

    def load_progress(self, run: str) -> bytes | None:
        """What a run left; None if it left nothing. DataCorrupt if that cannot be read."""
        folder = self._open()
        if folder is None:
            return None
        try:
            return load_file(_progress_of(folder.at / run), MAX_BYTES)
        except FileNotFoundError:
            return None

    def _unlocked(self) -> Iterator[RunFacts]:
        folder = self._open()
        if folder is None:
            return
        names = sorted(os.listdir(folder.at))
        for name in filter(is_id, names):
            with suppress(OSError, ValueError):
                facts = _load_unlocked(folder.at / name)
                if facts.run == name:
                    yield facts


def _progress_of(record: Path) -> Path:
    return record.with_name(f"{record.name}.progress")


def _remove(record: Path) -> None:
    """A record last: it is what tells of the rest."""
    progress = _progress_of(record)
    for path in (progress.with_name(f"{progress.name}.tmp"), progress, record):
        path.unlink(missing_ok=True)


def _document(facts: RunFacts) -> dict[str, object]:
    """Without what does not apply: a program that does not know it passes over the record."""
    document = asdict(facts)
    if not facts.holds:
        del document["holds"]
    return document


def decode_facts(data: bytes) -> RunFacts:
    """What a record tells; ValueError if it tells less, or more than this program knows."""
    try:
        document = json.loads(data)
        facts = RunFacts(**document)
    except (TypeError, RecursionError) as exc:
        raise ValueError("it is no record of a run") from exc
    words = (facts.run, facts.server, facts.vm, facts.snapshot)
    if not (all(isinstance(each, str) for each in words) and isinstance(facts.holds, bool)):
        raise ValueError("it is no record of a run")
    return facts


def encode_facts(facts: RunFacts) -> bytes:
    return json.dumps(_document(facts)).encode()


def _load_unlocked(path: Path) -> RunFacts:
    """The record at *path*; BlockingIOError if its run lives."""
    fd = open_regular(path)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return decode_facts(os.pread(fd, _MAX_BYTES, 0))
    finally:
        os.close(fd)
