"""Extraction of files of a guest into a directory of this machine.

The names and attributes come from a guest, so nothing here follows a link or uses a path: each
directory is opened relative to its parent, and each file is created under a temporary name that
must not exist. A file gets its name when it is complete.
"""

import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cbtfs.core.names import printable
from cbtfs.errors import CbtfsError, TargetFailed, UsageError
from cbtfs.files.protocol import Entry, Kind
from cbtfs.files.tree import File, GuestTree
from cbtfs.files.walk import Ancestors, LeftOut
from cbtfs.shortage import SHORTAGES

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_DEPTH: Final = 200
"""Depth of directories: each takes a descriptor."""
_SET_ID: Final = stat.S_ISUID | stat.S_ISGID
_SECURITY: Final = "security."
_ACLS: Final = ("system.posix_acl_access", "system.posix_acl_default")
_FATAL: Final = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE}
)
"""Errors of the target that the next file would have, too."""
_UNSUPPORTED: Final = frozenset(
    {errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EINVAL, errno.ENOSPC, errno.E2BIG}
)
"""Errors of an attribute that this user or this target cannot have."""


class Ignored(CbtfsError):
    """Raised for a file that is left out by a rule, or because its name cannot exist here."""


@dataclass(slots=True)
class Extracted:
    """The result of an extraction."""

    files: int = 0
    """Files of all kinds, without directories."""
    directories: int = 0
    bytes: int = 0
    """Sum of the sizes of regular files."""
    left_out: LeftOut = field(default_factory=LeftOut)
    set_id_files: int = 0
    """Files that were created without their set-uid or set-gid bits."""
    attributes_lost: int = 0
    """Extended attributes that were not set."""


@dataclass(slots=True)
class Extraction:
    """Extracts files with their attributes. A file with several names is extracted once."""

    tree: GuestTree
    is_special: bool = False
    """Whether devices, set-uid and set-gid bits and `security.*` attributes are created."""
    advance: Callable[[int], None] = lambda count: None
    """Called with bytes of files that are in the target, holes included."""
    result: Extracted = field(default_factory=Extracted)
    _links: dict[tuple[str, int], tuple[int, str]] = field(default_factory=dict)
    _is_root: bool = field(default_factory=lambda: os.geteuid() == 0)
    _held: list[int] = field(default_factory=list)

    def into(self, file: File, directory: Path, name: str) -> None:
        """Extract a file, or a directory with all its files, as *name* in *directory*.

        Raises:
            UsageError: the target exists, or *directory* does not.
            TargetFailed: the target refuses a write.
        """
        shown = printable(str(directory / name))
        if name in ("", ".", "..") or "/" in name:
            raise UsageError(f"{shown} is not a name for a new file")
        try:
            parent = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as exc:
            raise UsageError(f"{printable(str(directory))}: {exc.strerror}") from exc
        try:
            if _exists(parent, name):
                raise UsageError(f"{shown} exists: name another target, or remove it")
            self._extract(file, parent, name, Ancestors())
        except OSError as exc:
            raise TargetFailed(f"cannot write {shown}: {exc.strerror}") from exc
        finally:
            os.close(parent)
            for held in self._held:
                os.close(held)
            self._held.clear()
            self._links.clear()

    def _extract(self, file: File, parent: int, name: str, above: Ancestors) -> None:
        """Extract a file; one that cannot be extracted is added to the files left out."""
        try:
            if file.entry.defect is not None:
                raise Ignored(file.entry.defect)
            if file.is_directory:
                self._directory(file, parent, name, above)
            else:
                self._file(file, parent, name)
                self.result.files += 1
        except CbtfsError as exc:
            if isinstance(exc, TargetFailed):
                raise
            self.result.left_out.add(file.path, exc)
        except OSError as exc:
            if exc.errno in _FATAL or exc.errno in SHORTAGES:
                raise
            self.result.left_out.add(file.path, Ignored(f"not created: {exc.strerror}"))

    def _directory(self, file: File, parent: int, name: str, above: Ancestors) -> None:
        if len(above) == _MAX_DEPTH:
            raise Ignored(f"more than {_MAX_DEPTH} directories deep")
        below = above.with_directory(file)
        os.mkdir(name, 0o700, dir_fd=parent)
        opened = os.open(name, _DIRECTORY, dir_fd=parent)
        try:
            try:
                for child in self.tree.entries(file):
                    self._extract(child, opened, child.entry.name, below)
            finally:
                self._attributes(file, opened)
            self.result.directories += 1
        finally:
            os.close(opened)

    def _file(self, file: File, parent: int, name: str) -> None:
        entry = file.entry
        if entry.kind in (Kind.BLOCK, Kind.CHARACTER) and not (self.is_special and self._is_root):
            reason = "use --special as root" if not self._is_root else "use --special"
            raise Ignored(f"a device; {reason} to create it")
        key = file.volume.name, entry.inode
        if entry.links > 1 and key in self._links:
            source, known = self._links[key]
            os.link(known, name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
            self.advance(entry.size if entry.kind is Kind.FILE else 0)
            return
        with _temporary(parent, name) as temporary:
            self._create(file, parent, temporary)
        if entry.links > 1 and len(self._held) < _MAX_DEPTH:
            self._remember(key, parent, name)

    def _remember(self, key: tuple[str, int], parent: int, name: str) -> None:
        """Keep the location of a file that has other names, which become hard links."""
        for held in self._held:
            if os.path.samestat(os.fstat(held), os.fstat(parent)):
                self._links[key] = held, name
                return
        held = os.dup(parent)
        self._held.append(held)
        self._links[key] = held, name

    def _create(self, file: File, parent: int, name: str) -> None:
        entry = file.entry
        if entry.kind is Kind.FILE:
            opened = os.open(name, _NEW_FILE, 0o600, dir_fd=parent)
            try:
                self._content(file, opened)
                self._attributes(file, opened)
            finally:
                os.close(opened)
            return
        if entry.kind is Kind.LINK:
            os.symlink(file.target(), name, dir_fd=parent)
        elif entry.kind is Kind.FIFO:
            os.mkfifo(name, 0o600, dir_fd=parent)
        elif entry.kind is Kind.SOCKET:
            os.mknod(name, stat.S_IFSOCK | 0o600, dir_fd=parent)
        else:
            kind = stat.S_IFBLK if entry.kind is Kind.BLOCK else stat.S_IFCHR
            assert entry.device is not None
            os.mknod(name, kind | 0o600, os.makedev(*entry.device), dir_fd=parent)
        self._node_attributes(entry, parent, name)

    def _content(self, file: File, opened: int) -> None:
        """Write the parts that are not holes."""
        holes = file.entry.size
        for offset, data in file.parts():
            rest = memoryview(data)
            while rest:
                count = os.pwrite(opened, rest, offset)
                offset, rest = offset + count, rest[count:]
                self.advance(count)
                holes -= count
        os.ftruncate(opened, file.entry.size)
        self.advance(max(holes, 0))
        self.result.bytes += file.entry.size

    def _attributes(self, file: File, opened: int) -> None:
        """Set owner, mode, extended attributes and times of a file or a directory."""
        entry = file.entry
        if self._is_root:
            os.fchown(opened, entry.owner, entry.group)
        os.fchmod(opened, self._mode(entry))
        for name, value in self._wanted(file):
            try:
                os.setxattr(opened, name, value)
            except OSError as exc:
                if exc.errno not in _UNSUPPORTED:
                    raise
                self.result.attributes_lost += 1
        os.utime(opened, ns=_times(entry))

    def _node_attributes(self, entry: Entry, parent: int, name: str) -> None:
        if self._is_root:
            os.chown(name, entry.owner, entry.group, dir_fd=parent, follow_symlinks=False)
        if entry.kind is not Kind.LINK:
            # The name is new and temporary, but another user may replace it in a shared directory.
            opened = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
            try:
                if stat.S_ISLNK(os.fstat(opened).st_mode):
                    raise Ignored("another process replaced it")
                os.chmod(f"/proc/self/fd/{opened}", self._mode(entry))
            finally:
                os.close(opened)
        os.utime(name, ns=_times(entry), dir_fd=parent, follow_symlinks=False)

    def _mode(self, entry: Entry) -> int:
        if self.is_special or not entry.mode & _SET_ID or entry.kind is Kind.DIRECTORY:
            return entry.mode if self.is_special else entry.mode & ~_SET_ID
        self.result.set_id_files += 1
        return entry.mode & ~_SET_ID

    def _wanted(self, file: File) -> Iterator[tuple[str, bytes]]:
        """Yield the extended attributes to set; ACLs last, as they include the mode."""
        attributes = file.attributes()
        for name in sorted(attributes, key=lambda name: (name in _ACLS, name)):
            if name.startswith(_SECURITY) and not self.is_special:
                continue
            yield name, attributes[name]


@contextmanager
def _temporary(parent: int, name: str) -> Iterator[str]:
    """Yield a temporary name in a directory; rename it to *name* at the end, remove it otherwise.

    Raises:
        FileExistsError: *name* exists.
    """
    temporary = f".cbtfs-{secrets.token_hex(8)}"
    try:
        yield temporary
        # link() fails if the name exists, in contrast to rename().
        os.link(temporary, name, src_dir_fd=parent, dst_dir_fd=parent, follow_symlinks=False)
    except OSError as exc:
        if exc.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK):
            raise
        if _exists(parent, name):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from exc
        os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=parent)


def _exists(parent: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _times(entry: Entry) -> tuple[int, int]:
    return entry.accessed_ns, entry.modified_ns
