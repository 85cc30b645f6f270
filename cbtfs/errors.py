"""What can go wrong, split by who can do something about it; a class carries exit code and errno.

The exit codes are a contract with scripts: docs/commands.md lists them. Two edges read these
attributes: cli (exit_code) and mount/fuse (errno).
"""

import errno
from typing import ClassVar


class CbtfsError(Exception):
    """A failure that is no bug: its text is one line, what failed and then what to do."""

    exit_code: ClassVar[int] = 1
    errno: ClassVar[int] = errno.EIO


class OutOfResources(CbtfsError):
    """This process may not open another file or have more memory; nothing is said of the data."""


class UsageError(CbtfsError):
    """The command line or the configuration asks for what makes no sense."""

    exit_code = 2
    errno = errno.EINVAL


class RepositoryNotFound(CbtfsError):
    """There is no repository at that place."""

    exit_code = 10
    errno = errno.ENOENT


class RepositoryLocked(CbtfsError):
    """Another process writes to the repository."""

    exit_code = 11
    errno = errno.EBUSY


class FormatNotSupported(CbtfsError):
    """The repository needs a feature that this program does not know."""

    exit_code = 12


class PointNotFound(CbtfsError):
    """No such restore point, or no such disk in it, or a name that fits several."""

    exit_code = 13
    errno = errno.ENOENT


class ChunkMissing(CbtfsError):
    """An object that a restore point needs is not there."""

    exit_code = 20


class DataCorrupt(CbtfsError):
    """Bytes are there and are not what they should be."""

    exit_code = 21


class WrongDirectory(DataCorrupt):
    """Raised when points/ or packs/ is not the directory that belongs to the repository."""


class ManifestsMissing(DataCorrupt):
    """Raised when points that the catalog knows have neither a manifest nor a forgotten one."""


class SourceUnavailable(CbtfsError):
    """A source failed, ended early or cannot be reached."""

    exit_code = 30


class AccessDenied(CbtfsError):
    """Credentials or permissions do not suffice."""

    exit_code = 31
    errno = errno.EACCES


class ChangeTrackingUnusable(CbtfsError):
    """Only reading the whole disk would be right, and that was forbidden."""

    exit_code = 32


class SourceMismatch(CbtfsError):
    """Source and repository disagree, or the source changed while it was read."""

    exit_code = 33


class MountFailed(CbtfsError):
    """The mount could not be made, or did not end well."""

    exit_code = 40


class StoreFailed(CbtfsError):
    """The repository's storage refused a write or a flush; what was committed stands."""


class TargetFailed(CbtfsError):
    """What a restore writes to refused a write or a flush."""
