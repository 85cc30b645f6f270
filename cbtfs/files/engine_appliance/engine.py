"""The parent's side of an appliance: starts it, checks its answers, and ends it."""

import contextlib
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cbtfs import process
from cbtfs.core.extent import Extent
from cbtfs.core.names import printable
from cbtfs.errors import CbtfsError
from cbtfs.files.engine_parse import frames
from cbtfs.files.folder import Folder, scan_by_entries
from cbtfs.files.protocol import (
    MAX_READ_BYTES,
    EngineFailed,
    Entry,
    FileExtent,
    FileSystemDamaged,
    FileSystemUnsupported,
    GuestFileMissing,
)

ENGINE: Final = "appliance"
START_SECONDS: Final = 600.0
"""Longest start. QEMU's emulation needs 10 s; the first start also builds the appliance."""
CALL_SECONDS: Final = 120.0
"""Longest time between two messages of an appliance."""
_END_SECONDS: Final = 5.0
_MAX_ENTRIES: Final = 10_000_000
"""Longest listing of a directory."""
_MAX_VOLUMES: Final = 10_000
_CACHE: Final = "/var/tmp"
"""Directory of the appliance's image, which libguestfs builds once for each user."""
_MODULE: Final = "cbtfs.files.engine_appliance.child"
_ERRORS: Final[dict[str, type[CbtfsError]]] = {
    error.__name__: error
    for error in (GuestFileMissing, FileSystemDamaged, FileSystemUnsupported, EngineFailed)
}


@dataclass(frozen=True, slots=True)
class Setting:
    """The disks of an appliance, and how it runs."""

    disks: Sequence[tuple[str, Path]]
    """Label and raw file of each disk; the files are not changed."""
    folder: Path
    """An empty directory for sockets and overlays; the caller removes it."""
    keys: Sequence[str] = ()
    """Keys that are tried for encrypted volumes."""
    is_emulated: bool = True
    """Whether the appliance runs without KVM."""
    start_seconds: float = START_SECONDS


@dataclass(frozen=True, slots=True)
class ApplianceVolume:
    """A volume that an appliance has found."""

    name: str
    """That of its slice; "vg0/thin" or "md127" for one that has none."""
    kind: str
    """Content as blkid names it."""
    uuid: str
    label: str


class Appliance:
    """A VM that has all disks of a point. The next call replaces one that failed."""

    def __init__(self, setting: Setting) -> None:
        """Start it.

        Raises:
            EngineFailed: it does not start in time.
        """
        self._setting = setting
        self._child: process.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self.volumes: Sequence[ApplianceVolume] = ()
        with self.checked():
            self._started()

    def open(self, volume: str, size: int, subvolume: str | None = None) -> "ApplianceFileSystem":
        """Open the file system of a volume. *size*: bytes of the volume; 0 if it has no slice.

        *subvolume*: of btrfs; empty for its top, None for the guest's default.

        Raises:
            FileSystemUnsupported: the kernel of the appliance does not mount it.
        """
        return ApplianceFileSystem(self, volume, size, subvolume)

    @contextlib.contextmanager
    def checked(self) -> Iterator[None]:
        """End an appliance that sends an invalid answer or fails, or whose call is interrupted."""
        try:
            yield
        except (GuestFileMissing, FileSystemDamaged, FileSystemUnsupported):
            raise
        except BaseException:
            self.close()
            raise

    def messages(self, call: dict[str, Any], kind: bytes) -> Iterator[Any]:
        """Yield the items of a call, or its value or content, as *kind* states."""
        try:
            channel = self._started()
            frames.send(channel, frames.CALL, frames.encode(call))
            yield from _answers(channel, kind)
        except (OSError, EOFError) as exc:
            raise EngineFailed(f"the appliance failed: {self._reason(exc)}") from exc

    def close(self) -> None:
        """End the appliance."""
        child, self._child = self._child, None
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()
        if child is not None:
            try:
                child.wait(_END_SECONDS)
            except process.TimeoutExpired:
                child.kill()  # libguestfs then ends QEMU within seconds.
                child.wait()

    def _reason(self, exc: Exception) -> str:
        if isinstance(exc, TimeoutError):
            return f"it does not answer in {CALL_SECONDS:g} s"
        child = self._child
        if child is not None:
            with contextlib.suppress(process.TimeoutExpired):
                code = child.wait(1)
                return f"it ended with signal {-code}" if code < 0 else f"it ended with {code}"
        return str(exc)

    def _started(self) -> socket.socket:
        if self._channel is None:
            ours, theirs = socket.socketpair()
            with theirs:
                command = process.module(_MODULE, str(theirs.fileno()))
                self._channel = ours
                self._child = process.start(
                    process.ends_with_parent(command),
                    stderr=process.DEVNULL,
                    env=self._environment(),
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                )
            disks = [[label, str(path)] for label, path in self._setting.disks]
            call = {"operation": "start", "disks": disks, "keys": list(self._setting.keys)}
            self._channel.settimeout(self._setting.start_seconds)
            try:
                frames.send(self._channel, frames.CALL, frames.encode(call))
                (found,) = _answers(self._channel, frames.VALUE)
            except TimeoutError as exc:
                seconds = self._setting.start_seconds
                raise EngineFailed(f"the appliance did not start in {seconds:g} s") from exc
            except EngineFailed as exc:
                raise EngineFailed(f"the appliance did not start: {exc}") from exc
            self.volumes = _volumes(found)
            self._channel.settimeout(CALL_SECONDS)
        return self._channel

    def _environment(self) -> dict[str, str]:
        folder = str(self._setting.folder)
        settings = "force_tcg" if self._setting.is_emulated else ""
        return process.environment(
            LIBGUESTFS_BACKEND="direct",
            LIBGUESTFS_BACKEND_SETTINGS=settings,
            LIBGUESTFS_CACHEDIR=_CACHE,
            LIBGUESTFS_TMPDIR=folder,
            TMPDIR=folder,
            XDG_RUNTIME_DIR=folder,
        )


class ApplianceFileSystem:
    """A file system of an appliance."""

    engine = ENGINE

    def __init__(self, appliance: Appliance, volume: str, size: int, subvolume: str | None) -> None:
        """Mount it in the appliance; see Appliance.open()."""
        self._appliance = appliance
        self._target = {"volume": volume, "subvolume": subvolume}
        self._size = size
        (kind,) = self._value("open", "/") or [""]
        self.kind = frames.text(kind)
        self.notes: Sequence[str] = ()

    def stat(self, path: str) -> Entry:
        """Return the file with that path; a link is not followed."""
        with self._appliance.checked():
            return frames.to_entry(self._value("stat", path))

    def entries(self, path: str) -> Iterator[Entry]:
        """Yield the files in a directory in any order."""
        entries: list[Entry] = []
        with self._appliance.checked():
            for items in self._messages("entries", path, frames.ITEMS):
                entries += map(frames.to_entry, items)
                if len(entries) > _MAX_ENTRIES:
                    raise EngineFailed(f"{path}: more than {_MAX_ENTRIES} files")
        yield from entries

    def read(self, path: str, offset: int, length: int) -> bytes:
        """Return bytes of a file, fewer only at its end."""
        length = min(length, MAX_READ_BYTES)
        with self._appliance.checked():
            (data,) = self._messages("read", path, frames.CONTENT, offset=offset, length=length)
            if len(data) > length:
                raise EngineFailed("the appliance sent an invalid answer")
            return bytes(data)

    def extents(self, path: str, offset: int = 0) -> Iterator[FileExtent]:
        """Yield the parts of a file from *offset* on that are not holes, in ascending order."""
        found: list[FileExtent] = []
        with self._appliance.checked():
            for items in self._messages("extents", path, frames.ITEMS, offset=offset):
                for item in items:
                    extent = frames.to_extent(item, 0)
                    if extent.start < offset:
                        raise EngineFailed("the appliance sent an invalid answer")
                    offset = extent.end
                    found.append(extent)
        yield from found

    def target(self, path: str) -> str:
        """Return the text of a symbolic link."""
        with self._appliance.checked():
            return frames.to_target(self._value("target", path))

    def attributes(self, path: str) -> dict[str, bytes]:
        """Return the extended attributes."""
        with self._appliance.checked():
            return frames.to_attributes(self._value("attributes", path))

    def scan(self, areas: Sequence[Extent] | None = None) -> Iterator[Folder]:
        """Yield all directories of the file system."""
        yield from scan_by_entries(self, areas)

    def reads(self) -> list[Extent]:
        """Return the whole volume: the reads of a kernel are not known."""
        return [Extent(0, self._size)] if self._size else []

    def close(self) -> None:
        """Do nothing: the appliance has other file systems, too."""

    def _value(self, operation: str, path: str) -> Any:
        with self._appliance.checked():
            (value,) = self._messages(operation, path, frames.VALUE)
            return value

    def _messages(self, operation: str, path: str, kind: bytes, **more: int) -> Iterator[Any]:
        call = {"operation": operation, **self._target, "path": path, **more}
        return self._appliance.messages(call, kind)


def _answers(channel: socket.socket, wanted: bytes) -> Iterator[Any]:
    """Yield the payloads of type *wanted*, decoded, up to the end of the answer."""
    while True:
        kind, payload = frames.receive(channel)
        if kind == frames.ERROR:
            raise _error(frames.decode(payload))
        if kind == frames.CONTENT == wanted:
            yield payload
            return
        if kind == frames.VALUE:
            if wanted == frames.VALUE:
                yield frames.decode(payload)
            elif wanted != frames.ITEMS:
                raise EngineFailed("the appliance sent an invalid answer")
            return
        items = frames.decode(payload) if kind == frames.ITEMS == wanted else None
        if not isinstance(items, list) or len(items) > frames.ITEMS_PER_MESSAGE:
            raise EngineFailed("the appliance sent an invalid answer")
        yield items


def _error(value: Any) -> CbtfsError:
    match value:
        case [str(name), str(message)] if name in _ERRORS:
            return _ERRORS[name](printable(message))
    return EngineFailed("the appliance sent an invalid answer")


def _volumes(value: Any) -> list[ApplianceVolume]:
    if not isinstance(value, list) or len(value) > _MAX_VOLUMES:
        raise EngineFailed("the appliance sent an invalid answer")
    try:
        return [ApplianceVolume(*map(frames.text, item)) for item in value]
    except TypeError:
        raise EngineFailed("the appliance sent an invalid answer") from None
