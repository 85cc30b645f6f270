"""Errors, one class for each remedy; a class carries an exit code and an errno.

The exit codes are a contract with scripts: docs/commands.md describes them. Two edges read these
attributes: cli (exit_code) and mount/fuse (errno). A new exit code is a member of ExitCode; the
help and the manual list it then.
"""

import errno
from collections.abc import Iterable
from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """Exit codes of the program, each with its meaning as the help shows it."""

    summary: str

    def __new__(cls, code: int, summary: str) -> "ExitCode":
        """Return the member *code*, described by *summary*."""
        member = int.__new__(cls, code)
        member._value_ = code
        member.summary = summary
        return member

    DONE = 0, "success"
    FAILURE = 1, "another failure"
    USAGE = 2, "usage or configuration error"
    PARTIAL = 3, "partial success"
    NO_REPOSITORY = 10, "no repository"
    LOCKED = 11, "repository locked"
    UNSUPPORTED_FORMAT = 12, "format not supported"
    NO_POINT = 13, "no such restore point"
    NO_KEY = 14, "no key of the repository"
    CHUNK_MISSING = 20, "data missing"
    DATA_CORRUPT = 21, "data corrupt"
    SOURCE_UNAVAILABLE = 30, "source unavailable"
    ACCESS_DENIED = 31, "access denied"
    NO_CHANGE_TRACKING = 32, "full scan needed, but forbidden"
    SOURCE_MISMATCH = 33, "source and repository disagree"
    MOUNT_FAILED = 40, "mount failed"
    BUG = 70, "a bug in cbtfs"
    HANGUP = 129, "ended by SIGHUP"
    INTERRUPTED = 130, "ended by SIGINT"
    TERMINATED = 143, "ended by SIGTERM"


class CbtfsError(Exception):
    """A failure that is not a bug. Its text is one line: what failed, why, and what to do."""

    exit_code: ClassVar[ExitCode] = ExitCode.FAILURE
    errno: ClassVar[int] = errno.EIO

    def __init__(self, message: str = "", candidates: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.candidates = tuple(candidates)
        """Names that the user may have meant; `--json` prints them with the error."""


class OutOfResources(CbtfsError):
    """Raised at a limit on descriptors, memory or threads; it says nothing about the data."""


class UsageError(CbtfsError):
    """Raised for an invalid command line or configuration."""

    exit_code = ExitCode.USAGE
    errno = errno.EINVAL


class RepositoryNotFound(CbtfsError):
    """Raised if the directory does not contain a repository."""

    exit_code = ExitCode.NO_REPOSITORY
    errno = errno.ENOENT


class RepositoryLocked(CbtfsError):
    """Raised if another process holds the writer's lock."""

    exit_code = ExitCode.LOCKED
    errno = errno.EBUSY


class FormatNotSupported(CbtfsError):
    """Raised if a repository or an overlay needs a feature that this version does not support."""

    exit_code = ExitCode.UNSUPPORTED_FORMAT


class KeyUnavailable(CbtfsError):
    """Raised if no key of an encrypted repository was given, or none that fits."""

    exit_code = ExitCode.NO_KEY
    errno = errno.EACCES


class PointNotFound(CbtfsError):
    """Raised for an unknown or ambiguous name of a restore point, disk or VM."""

    exit_code = ExitCode.NO_POINT
    errno = errno.ENOENT


class ChunkMissing(CbtfsError):
    """Raised if an object that a restore point needs is missing."""

    exit_code = ExitCode.CHUNK_MISSING


class DataCorrupt(CbtfsError):
    """Raised if stored bytes do not match their checksum, digest or format."""

    exit_code = ExitCode.DATA_CORRUPT


class WrongDirectory(DataCorrupt):
    """Raised when points/ or packs/ is not the directory that belongs to the repository."""


class ManifestsMissing(DataCorrupt):
    """Raised when points that the catalog knows have neither a manifest nor a forgotten one."""


class SourceUnavailable(CbtfsError):
    """Raised if a source failed, ended early or cannot be reached."""

    exit_code = ExitCode.SOURCE_UNAVAILABLE


class AccessDenied(CbtfsError):
    """Raised if credentials or permissions are insufficient."""

    exit_code = ExitCode.ACCESS_DENIED
    errno = errno.EACCES


class ChangeTrackingUnusable(CbtfsError):
    """Raised if only a full scan is safe, and --incremental-only forbids it."""

    exit_code = ExitCode.NO_CHANGE_TRACKING


class SourceMismatch(CbtfsError):
    """Raised if source and repository disagree, or the source changed while it was read."""

    exit_code = ExitCode.SOURCE_MISMATCH


class MountFailed(CbtfsError):
    """Raised if a mount cannot be created, or fails."""

    exit_code = ExitCode.MOUNT_FAILED


class StoreFailed(CbtfsError):
    """Raised if the repository's storage refused a write or a flush; committed data is intact."""


class StoreUnreachable(StoreFailed):
    """Raised if the server of a repository does not answer; it says nothing about the data.

    The outage is logged once, where it is noticed.
    """


class TargetFailed(CbtfsError):
    """Raised if the target of a restore refused a write or a flush."""
