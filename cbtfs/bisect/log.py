"""The log of a search: a text file with one line for each result, which a later search reuses.

    cbtfs-bisect 1
    disk 5d41402abc4b2a76b9719d911017c592
    command ["e2fsck", "-fn", "{}"]
    good 9f86d081884c7d659a2feaa0c55ad015 web01@2026-11-20T14-00-03Z

Users may remove and add lines of results. A line without an end is the trace of a killed search.
"""

import fcntl
import json
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, get_args

from cbtfs.core.bisect import Result
from cbtfs.core.ids import PointId, is_id
from cbtfs.core.names import printable
from cbtfs.errors import CbtfsError, RepositoryLocked, UsageError

_FORMAT: Final = "cbtfs-bisect 1"
_MAX_BYTES: Final = 16 << 20
_MODE: Final = 0o600


@dataclass(slots=True)
class Log:
    """Results by point; in a file if the user named one."""

    results: dict[PointId, Result] = field(default_factory=dict)
    descriptor: int | None = None
    path: Path | None = None

    def add(self, point: PointId, name: str, result: Result) -> None:
        """Keep a result. CbtfsError if the file cannot be written."""
        self.results[point] = result
        self.write(f"{result} {point} {printable(name)}")

    def write(self, line: str) -> None:
        """Append a line to the file, if there is one."""
        if self.descriptor is None:
            return
        data = (line + "\n").encode(errors="backslashreplace")
        try:
            if os.write(self.descriptor, data) != len(data):
                raise OSError(0, "no space left")
        except OSError as exc:
            raise CbtfsError(f"cannot write --log {_shown(self.path)}: {exc.strerror}") from exc


@contextmanager
def opened(path: Path | None, disk: str, command: Sequence[str]) -> Iterator[Log]:
    """Open the log at *path*, or make it; without a path, results are kept in memory only.

    *disk* is the id of the disk, or of the VM if the command uses all disks.

    Raises:
        UsageError: the file is no log, or that of another disk or command.
        RepositoryLocked: another search is writing the file.
    """
    if path is None:
        yield Log()
        return
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, _MODE)
    except OSError as exc:
        raise CbtfsError(f"cannot open --log {_shown(path)}: {exc.strerror}") from exc
    try:
        yield _load(path, descriptor, f"disk {disk}", f"command {json.dumps(list(command))}")
    finally:
        os.close(descriptor)


def _load(path: Path, descriptor: int, disk: str, command: str) -> Log:
    facts = os.fstat(descriptor)
    if not stat.S_ISREG(facts.st_mode) or facts.st_size > _MAX_BYTES:
        raise UsageError(f"--log {_shown(path)} is not the log of a search: name another file")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        raise RepositoryLocked(f"--log {_shown(path)} is in use by another search") from exc
    text = os.pread(descriptor, _MAX_BYTES, 0)
    whole = text[: text.rfind(b"\n") + 1]
    head = (_FORMAT, disk, command)
    lines = whole.decode(errors="replace").splitlines()
    if not _is_beginning(text, head):
        _require_head(path, lines, head)
    if len(whole) < len(text):
        os.ftruncate(descriptor, len(whole))
    log = Log(_results(path, lines[len(head) :]), descriptor, path)
    for line in head[len(lines) :]:
        log.write(line)
    return log


def _is_beginning(text: bytes, head: Sequence[str]) -> bool:
    """Return whether the file ends within the first lines, as a killed search leaves it."""
    return "".join(f"{line}\n" for line in head).encode().startswith(text)


def _require_head(path: Path, lines: Sequence[str], head: Sequence[str]) -> None:
    if lines[:1] != [head[0]]:
        raise UsageError(f"--log {_shown(path)} is not the log of a search: name another file")
    for line, expected in zip(lines[1:3], head[1:], strict=False):
        if line != expected:
            what = expected.partition(" ")[0]
            raise UsageError(
                f"--log {_shown(path)} has results of another {what}: name another file"
            )
    if len(lines) < len(head):
        raise UsageError(f"--log {_shown(path)} is damaged: name another file")


def _results(path: Path, lines: Sequence[str]) -> dict[PointId, Result]:
    results: dict[PointId, Result] = {}
    for number, line in enumerate(lines, 4):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if words[0] not in get_args(Result) or len(words) < 2 or not is_id(words[1]):
            raise UsageError(
                f"--log {_shown(path)}, line {number}: {printable(line[:80])!r} is not a result: "
                "use e.g. 'skip' and the id of a point"
            )
        results[PointId(words[1])] = words[0]  # type: ignore[assignment]
    return results


def _shown(path: Path | None) -> str:
    return printable(str(path))
