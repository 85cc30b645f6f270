"""Serve an overlay: a private mount of its point, the images over it, and an export of each disk.

The chain of processes ends from the top: this process takes the lock and removes links and mounts;
the daemon, which the kernel kills with this process, flushes the images; the mount ends when the
daemon has closed the disks of the point.
"""

import logging
import os
import selectors
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

from cbtfs.core.names import printable
from cbtfs.core.overlay import Overlay, OverlayDisk
from cbtfs.errors import CbtfsError, MountFailed, UsageError
from cbtfs.mount.holders import holders
from cbtfs.mount.mountpoint import Busy, unmount
from cbtfs.mount.mounts import mount_at
from cbtfs.mount.notify import notify
from cbtfs.mount.private import PrivateMount
from cbtfs.mount.readiness_pipe import READY, parse_error, send_error, send_ready
from cbtfs.overlay.base import load_base
from cbtfs.overlay.composition import base_files, base_mount, compose
from cbtfs.overlay.create import require_repository
from cbtfs.overlay.exports import fuse_exports, nbd_exports, nbd_nodes
from cbtfs.overlay.folder import RAW, OverlayFolder, refuse_directory
from cbtfs.overlay.runtime import SOCKET, Runtime, load_runtime, new_runtime, remove_traces
from cbtfs.qemu.daemon import StorageDaemon, find_daemon, storage_daemon
from cbtfs.qemu.images import whole_sectors
from cbtfs.qemu.signals import ending_signals
from cbtfs.store.encryption.ring import unlock
from cbtfs.store.repository import reading

log = logging.getLogger(__name__)

_LOG: Final = "log"
_FILES: Final = "files"
"""Runtime directory of the daemon that shows a joint image as raw files."""
_RETRY_SECONDS: Final = 1.0
"""Interval of attempts to unmount raw files that are in use."""
_MAX_SOCKET_BYTES: Final = 107
"""Maximum length of the path of a Unix socket (unix(7))."""


@dataclass(frozen=True, slots=True)
class ServedDisk:
    """A disk of a running overlay, and where it can be used."""

    disk: OverlayDisk
    size: int
    """Bytes, in whole sectors."""
    location: str
    """Path of the raw file, or URI of the NBD export."""


@dataclass(frozen=True, slots=True)
class OverlayServer:
    """Options of a start."""

    repository: Path
    folder: OverlayFolder
    raw: Path | None = None
    """Directory for raw files; the directory of the overlay by default."""
    nbd: Path | None = None
    """Directory for the socket of an NBD server, in place of raw files."""
    mountpoint: Path | None = None
    """A mount of the repository to use; None: a private one."""

    @property
    def _directory(self) -> Path:
        chosen = self.nbd or self.raw or self.folder.path
        return Path(os.path.realpath(chosen))

    def disks(self, overlay: Overlay) -> list[ServedDisk]:
        """Return the disks of *overlay* as they are served."""
        return [
            ServedDisk(disk, whole_sectors(disk.size), self._location(disk))
            for disk in overlay.disks
        ]

    def _location(self, disk: OverlayDisk) -> str:
        if self.nbd is None:
            return str(self._directory / (disk.stem + RAW))
        return f"nbd+unix:///{quote(disk.label, safe='')}?socket={quote(str(self._socket))}"

    @property
    def _socket(self) -> Path:
        return self._directory / f"{self.folder.name}.sock"

    def serve(self, on_ready: Callable[[list[ServedDisk]], None]) -> None:
        """Serve the overlay until SIGTERM, SIGINT or SIGHUP. Call *on_ready* when it can be used.

        Raises:
            RepositoryLocked: the overlay is in use.
            ChunkMissing, DataCorrupt, SourceMismatch: see load_base(); no daemon was started.
            MountFailed: the mount or the daemon cannot start, or ended.
        """
        overlay = self._check()
        with self.folder.locked("start"), ExitStack() as stack:
            remove_traces(self.folder)
            mount = base_mount(self.repository, self.mountpoint, stack)
            with reading(self.repository) as repository:
                manifest = load_base(repository, overlay)
            mounted = mount()
            runtime = stack.enter_context(self._runtime(overlay))
            bases = base_files(overlay, manifest, mounted)
            options = compose(self.folder, overlay, bases, runtime.path, is_read_only=False)
            daemons = self._daemons(overlay, options, runtime, stack)
            if self.nbd is None:
                _require_disks(overlay, runtime)
            with ending_signals() as wakeup:
                runtime.show()
                on_ready(self.disks(overlay))
                self._wait(daemons, mounted, runtime, wakeup)

    def _check(self) -> Overlay:
        """Return the overlay if the options suit it."""
        if self.raw is not None and self.nbd is not None:
            raise UsageError("--raw and --nbd are mutually exclusive")
        overlay = self.folder.load()
        require_repository(overlay, self.repository)
        refuse_directory(self.folder.path, self.repository, "--dir")
        refuse_directory(self._directory, self.repository, "--raw" if self.nbd is None else "--nbd")
        if not self._directory.is_dir():
            raise UsageError(f"{printable(str(self._directory))} is not a directory: create it")
        if self.nbd is not None and len(os.fsencode(self._socket)) > _MAX_SOCKET_BYTES:
            raise UsageError(
                f"the path of the socket, {printable(str(self._socket))}, is longer than "
                f"{_MAX_SOCKET_BYTES} bytes: name another directory"
            )
        find_daemon()
        return overlay

    @contextmanager
    def _runtime(self, overlay: Overlay) -> Iterator[Runtime]:
        if self.nbd is not None:
            links, targets = [self._socket.name], [SOCKET]
        else:
            links = targets = [disk.stem + RAW for disk in overlay.disks]
        with new_runtime(self.folder, self._directory, links, targets) as runtime:
            if self.nbd is None:
                for _, target in runtime.links:
                    target.touch(0o600)
            yield runtime

    def _daemons(
        self, overlay: Overlay, options: list[str], runtime: Runtime, stack: ExitStack
    ) -> list[StorageDaemon]:
        """Start the daemon that has the images, and for raw files of a joint image a second one.

        A FUSE export of QEMU 7.2 claims the right to resize its disk, which another disk of the
        same image denies; an NBD export does not.
        """
        socket = runtime.path / SOCKET
        mountpoints = [target for _, target in runtime.links]
        files = fuse_exports(mountpoints, allows_others=os.geteuid() == 0)
        if self.nbd is None and not overlay.is_joint:
            return [stack.enter_context(storage_daemon([*options, *files], runtime.path))]
        exports = nbd_exports(overlay.disks, socket, is_writable=True)
        daemons = [stack.enter_context(storage_daemon([*options, *exports], runtime.path))]
        if self.nbd is None:
            own = runtime.path / _FILES
            own.mkdir()
            nodes = nbd_nodes(overlay.disks, socket)
            daemons.append(stack.enter_context(storage_daemon([*nodes, *files], own)))
        return daemons

    def _wait(
        self,
        daemons: Sequence[StorageDaemon],
        mounted: PrivateMount,
        runtime: Runtime,
        wakeup: socket.socket,
    ) -> None:
        """Wait for a signal, then until no raw file is in use.

        Raises:
            MountFailed: the daemon or the mount ended.
        """
        signals = 0
        with selectors.DefaultSelector() as selector, ExitStack() as stack:
            ends: list[tuple[StorageDaemon | str, int]] = [
                *((daemon, daemon.child.pid) for daemon in daemons),
                ("mount", mounted.process),
            ]
            for name, process in ends:
                fd = os.pidfd_open(process)
                stack.callback(os.close, fd)
                selector.register(fd, selectors.EVENT_READ, name)
            selector.register(wakeup, selectors.EVENT_READ, "signal")
            while True:
                events = selector.select(_RETRY_SECONDS if signals else None)
                ended = {key.data for key, _ in events}
                for daemon in daemons:
                    if daemon in ended:
                        raise MountFailed(
                            f"qemu-storage-daemon of overlay {self.folder.name} ended: "
                            f"{daemon.failure()}"
                        )
                if "mount" in ended:
                    raise MountFailed(
                        f"the mount below overlay {self.folder.name} ended; start it again"
                    )
                if "signal" in ended:
                    signals += len(wakeup.recv(64))
                    notify("STOPPING=1")
                    runtime.hide()
                if signals and (signals > 1 or _unmount_all(runtime)):
                    return

    def serve_in_background(self) -> list[ServedDisk]:
        """Serve the overlay in a child process, and return when it can be used.

        Messages go to the file `log` in the directory of the overlay.

        Raises:
            CbtfsError: the overlay cannot start; the error is that of the child.
        """
        overlay = self._check()
        unlock(self.repository)  # The child has no terminal.
        read_end, write_end = os.pipe()
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        messages = os.open(self.folder.path / _LOG, flags, 0o600)
        sys.stdout.flush()
        sys.stderr.flush()
        if os.fork() == 0:
            os.close(read_end)
            self._serve_detached(messages, write_end)
        os.close(write_end)
        os.close(messages)
        with open(read_end, "rb") as file:
            line = file.readline()
        if line != READY:
            ended = f"overlay {overlay.name} ended early: see {self.folder.path / _LOG}"
            raise parse_error(line) or MountFailed(ended)
        return self.disks(overlay)

    def _serve_detached(self, messages: int, report: int) -> None:
        """Serve in a session without a terminal. Never return."""
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for stream, source in ((0, null), (1, messages), (2, messages)):
            os.dup2(source, stream)
        is_ready = False

        def on_ready(_: list[ServedDisk]) -> None:
            nonlocal is_ready
            is_ready = True
            send_ready(report)
            os.close(report)

        code = 70
        try:
            os.chdir("/")
            self.serve(on_ready)
            code = 0
        except CbtfsError as exc:
            if not is_ready:
                send_error(report, exc)
            sys.stderr.write(f"cbtfs: {exc}\n")
            code = exc.exit_code
        finally:
            if code == 70:
                sys.excepthook(*sys.exc_info())
            sys.stderr.flush()
            os._exit(code)


def _require_disks(overlay: Overlay, runtime: Runtime) -> None:
    """Raise MountFailed unless each mount point shows its disk."""
    for disk, (_, target) in zip(overlay.disks, runtime.links, strict=True):
        if mount_at(target) is None or target.stat().st_size != whole_sectors(disk.size):
            raise MountFailed(f"disk {printable(disk.label)} is not shown by qemu-storage-daemon")


def _unmount_all(runtime: Runtime) -> bool:
    """Unmount raw files that nobody uses; return whether all are unmounted."""
    is_done = True
    for _, target in runtime.links:
        if mount_at(target) is not None:
            try:
                unmount(target)
            except Busy as exc:
                log.warning("%s; the overlay remains until then", exc)
                is_done = False
    return is_done


def stop_overlay(folder: OverlayFolder) -> bool:
    """Stop a running overlay; return False if it is not running.

    Raises:
        Busy: a raw file is in use; the message names the users, and nothing was stopped.
        MountFailed: it does not stop in time.
    """
    folder.load()
    holder = folder.holder()
    if holder is not None:
        runtime = load_runtime(folder)
        for _, target in () if runtime is None else runtime.links:
            users = holders(target) if mount_at(target) is not None else []
            if users:
                raise Busy(
                    f"overlay {folder.name} is in use: {target.name} is held by "
                    f"{', '.join(users)}; unmount, detach and close these first"
                )
        folder.wait_for_end(holder)
        return True
    with folder.locked("stop"), suppress(FileNotFoundError):
        remove_traces(folder)
    return False
