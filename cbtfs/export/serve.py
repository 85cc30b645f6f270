"""Serve the disks of a point by NBD: a private mount, and one daemon over its qcow2 images."""

import os
import selectors
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cbtfs.core.filenames import QCOW2, RAW, SINCE, VIEWS
from cbtfs.core.manifest import DiskRecord, Manifest
from cbtfs.core.names import printable
from cbtfs.errors import MountFailed, UsageError
from cbtfs.export.graph import ExportedDisk, exports
from cbtfs.export.listen import Listener, parse_address, tcp_listener, unix_listener
from cbtfs.mount.entry import listable_name
from cbtfs.mount.mounts import mounts
from cbtfs.mount.notify import notify
from cbtfs.mount.private import PrivateMount, starting_mount
from cbtfs.mount.scratch import scratch_directory
from cbtfs.qemu.daemon import StorageDaemon, find_daemon, storage_daemon
from cbtfs.qemu.objects import require_intact
from cbtfs.qemu.signals import ending_signals
from cbtfs.reader import Reader
from cbtfs.store.repository import reading

_SECTOR: Final = 512
_FIRST_BYTES: Final = 4096
"""Bytes of each disk that are read before anything is started."""
_CERTIFICATES: Final = ("ca-cert.pem", "server-cert.pem", "server-key.pem")


@dataclass(frozen=True, slots=True)
class Place:
    """A directory for a Unix socket, or an address with certificates."""

    directory: Path | None
    address: str | None
    tls_directory: Path | None

    def check(self, repository: Path) -> None:
        """Raise UsageError unless the place is complete and safe."""
        if (self.directory is None) == (self.address is None):
            raise UsageError("export needs either --socket DIR or --listen HOST:PORT")
        if self.address is not None:
            parse_address(self.address)
            if self.tls_directory is None:
                raise UsageError(
                    "--listen needs --tls-dir: disks are served over TCP only with TLS and client "
                    "certificates"
                )
            _require_certificates(self.tls_directory)
        elif self.tls_directory is not None:
            raise UsageError("--tls-dir belongs to --listen: a Unix socket has no TLS")
        if self.directory is not None:
            _require_directory(self.directory, repository)

    @contextmanager
    def listening(self) -> Iterator[Listener]:
        """Listen until the end of the block; see tcp_listener() and unix_listener()."""
        if self.directory is not None:
            with unix_listener(self.directory) as listener:
                yield listener
        else:
            with tcp_listener(*parse_address(str(self.address))) as listener:
                yield listener


@dataclass(frozen=True, slots=True)
class ServedExport:
    """A disk that clients can read."""

    disk: str
    """Label."""
    size: int
    """Bytes, in whole sectors."""
    uri: str
    contexts: list[str]


@dataclass(frozen=True, slots=True)
class PointExport:
    """The disks of a point, with the changes since an earlier point of the VM if one is given."""

    repository: Path
    manifest: Manifest
    since: Manifest | None
    place: Place

    def check(self) -> None:
        """Raise UsageError if the export cannot start for a reason that the options tell."""
        self.place.check(self.repository)
        since = self.since
        if since is not None and (
            since.vm.id != self.manifest.vm.id or since.order >= self.manifest.order
        ):
            raise UsageError(
                f"--since {since.point} is not an earlier point of the VM of {self.manifest.point}"
            )
        if not self.manifest.of_kind("disk"):
            raise UsageError(f"point {self.manifest.point} has no disks")
        find_daemon()

    def serve(self, on_ready: Callable[[list[ServedExport]], None]) -> None:
        """Serve until SIGTERM, SIGINT or SIGHUP. Call *on_ready* when clients can connect.

        Raises:
            ChunkMissing, DataCorrupt: the point is damaged; no daemon was started.
            MountFailed: the mount or the daemon cannot start, or ended.
        """
        with ExitStack() as stack:
            mount = stack.enter_context(starting_mount(self.repository))
            with reading(self.repository) as repository:
                for manifest in self._manifests():
                    stack.enter_context(repository.points.leased(manifest.point))
                    require_intact(repository, manifest)
                reader = Reader(repository, cache_bytes=0)
                for disk in self.manifest.of_kind("disk"):
                    reader.disk(disk).read(0, min(disk.size, _FIRST_BYTES))
            listener = stack.enter_context(self.place.listening())
            mounted = mount.wait()
            disks = self._disks(mounted)
            folder = stack.enter_context(scratch_directory("cbtfs-export-"))
            options = exports([disk for _, disk in disks], listener.descriptor, self._tls())
            daemon = stack.enter_context(storage_daemon(options, folder, [listener.descriptor]))
            with ending_signals() as wakeup:
                on_ready([_served(record, disk, listener) for record, disk in disks])
                _wait(daemon, mounted, wakeup)

    def _manifests(self) -> list[Manifest]:
        return [self.manifest] if self.since is None else [self.manifest, self.since]

    def _tls(self) -> Path | None:
        directory = self.place.tls_directory
        return None if directory is None else directory.absolute()

    def _disks(self, mounted: PrivateMount) -> list[tuple[DiskRecord, ExportedDisk]]:
        return [
            (record, self._disk(mounted.path(self.manifest, record), record))
            for record in self.manifest.of_kind("disk")
        ]

    def _disk(self, raw: Path, record: DiskRecord) -> ExportedDisk:
        stem, views = raw.name.removesuffix(RAW), raw.parent / VIEWS
        if self.since is None or not self._has_changes(record):
            return ExportedDisk(stem, views / (stem + QCOW2), raw)
        name = listable_name(self.since.name)
        image = views / f"{stem}{SINCE}{name}{QCOW2}"
        return ExportedDisk(stem, image, raw, f"since-{name}")

    def _has_changes(self, record: DiskRecord) -> bool:
        """Return whether a bitmap of a disk exists: the earlier point has the disk, too."""
        assert self.since is not None
        return record.size > 0 and any(
            disk.id == record.id and disk.block_size == record.block_size
            for disk in self.since.disks
        )


def _served(record: DiskRecord, disk: ExportedDisk, listener: Listener) -> ServedExport:
    size = -(-record.size // _SECTOR) * _SECTOR
    return ServedExport(record.label, size, listener.uri(disk.name), disk.contexts)


def _wait(daemon: StorageDaemon, mounted: PrivateMount, wakeup: socket.socket) -> None:
    """Wait for a signal.

    Raises:
        MountFailed: the daemon or the mount ended.
    """
    with selectors.DefaultSelector() as selector, ExitStack() as stack:
        for name, pid in (("daemon", daemon.child.pid), ("mount", mounted.process)):
            fd = os.pidfd_open(pid)
            stack.callback(os.close, fd)
            selector.register(fd, selectors.EVENT_READ, name)
        selector.register(wakeup, selectors.EVENT_READ, "signal")
        ended = {key.data for key, _ in selector.select()}
    if "signal" in ended:
        notify("STOPPING=1")
    elif "daemon" in ended:
        raise MountFailed(f"qemu-storage-daemon of the export ended: {daemon.failure()}")
    else:
        raise MountFailed("the mount below the export ended; run the command again")


def _require_certificates(directory: Path) -> None:
    for name in _CERTIFICATES:
        path = directory / name
        try:
            with path.open("rb"):
                pass
        except OSError as exc:
            raise UsageError(
                f"--tls-dir: cannot read {printable(str(path))}: {exc.strerror}"
            ) from exc


def _require_directory(directory: Path, repository: Path) -> None:
    path = Path(os.path.realpath(directory))
    shown = printable(str(directory))
    if not path.is_dir():
        raise UsageError(f"--socket {shown} is not a directory: create it")
    if path.is_relative_to(os.path.realpath(repository)):
        raise UsageError(f"--socket {shown} is inside the repository: name another directory")
    if any(mount.is_ours and path.is_relative_to(mount.path) for mount in mounts()):
        raise UsageError(f"--socket {shown} is inside a mount of cbtfs: name another directory")
