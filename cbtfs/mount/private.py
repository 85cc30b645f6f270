"""A mount for one command, which is removed when the command ends."""

import ctypes
import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from cbtfs import process
from cbtfs.core.manifest import DiskRecord, Manifest
from cbtfs.errors import CbtfsError, MountFailed
from cbtfs.mount.entry import BY_ID_DIRECTORY, listable_name
from cbtfs.mount.files import files_of
from cbtfs.mount.mountpoint import load_status, unmount
from cbtfs.mount.mounts import mount_at
from cbtfs.mount.readiness_pipe import READY, parse_error, send_error, send_ready
from cbtfs.mount.scratch import scratch_directory
from cbtfs.store.encryption.handover import NO_KEYS, keys_for_child, take_keys
from cbtfs.store.encryption.ring import unlock

_READY_SECONDS: Final = 120
_END_SECONDS: Final = 30
_SET_PDEATHSIG: Final = 1
"""PR_SET_PDEATHSIG of linux/prctl.h."""
_STDOUT: Final = 1
_PROGRAM: Final = "from cbtfs.mount.private import serve; serve(*sys.argv[1:])"


@dataclass(frozen=True, slots=True)
class PrivateMount:
    """A mount that a command reads disks from."""

    mountpoint: Path
    process: int
    """Process id of the mount."""

    def path(self, manifest: Manifest, disk: DiskRecord) -> Path:
        """Return the path of the raw file of a disk."""
        entry = files_of(manifest, 0).disks[manifest.disks.index(disk)]
        point = listable_name(manifest.name)
        return self.mountpoint / BY_ID_DIRECTORY / manifest.vm.id / point / entry.name

    def has_failed_reads(self) -> bool:
        """Return whether a read of this mount failed; also True if the mount does not answer."""
        try:
            return bool(load_status(self.mountpoint)["errors"])
        except MountFailed:
            return True


@dataclass(frozen=True, slots=True)
class StartingMount:
    """A private mount whose process has been started."""

    repository: Path
    folder: Path
    server: process.Popen[bytes]
    log: IO[bytes]

    def wait(self) -> PrivateMount:
        """Return the mount when it can be used.

        Raises:
            CbtfsError: the mount cannot start; the error is that of the process.
        """
        line = process.first_line(self.server, _READY_SECONDS)
        if line != READY:
            self.log.seek(0)
            last = self.log.read().decode(errors="replace").strip().rpartition("\n")[2]
            error = parse_error(line)
            if error is None or (isinstance(error, MountFailed) and last):
                raise MountFailed(f"cannot mount {self.repository}: {last or error}")
            raise error
        return PrivateMount(self.folder, self.server.pid)


@contextmanager
def private_mount(repository: Path) -> Iterator[PrivateMount]:
    """Mount *repository* as starting_mount() does, and wait until the mount can be used.

    Raises:
        CbtfsError: the mount cannot start; the error is that of the process.
    """
    with starting_mount(repository) as starting:
        yield starting.wait()


@contextmanager
def starting_mount(repository: Path) -> Iterator[StartingMount]:
    """Mount *repository* on a new directory in another process; unmount and remove it at the end.

    The block begins at once, so that the caller can do something else while the mount starts.
    The mount has its own session, so Ctrl-C reaches only the caller. If the caller is killed, the
    mount ends as soon as no file in it is open.
    """
    with scratch_directory("cbtfs-restore-") as folder:
        unlock(repository)
        with (
            tempfile.TemporaryFile() as log,
            keys_for_child() as keys,
            process.start(
                process.interpreter(
                    _PROGRAM, repository.absolute(), folder, str(os.getpid()), str(keys)
                ),
                stdout=process.PIPE,
                stderr=log,
                env=process.repository_environment(),
                start_new_session=True,
                pass_fds=() if keys == NO_KEYS else (keys,),
            ) as server,
        ):
            try:
                yield StartingMount(repository, folder, server, log)
            finally:
                _end(server, folder)


def shared_mount(repository: Path, mountpoint: Path) -> PrivateMount:
    """Return the mount of *repository* that serves *mountpoint* for others already.

    Raises:
        MountFailed: it is no mount of cbtfs, does not answer, or shows another repository.
    """
    status = load_status(mountpoint)
    if os.path.realpath(status["repository"]) != os.path.realpath(repository):
        raise MountFailed(
            f"{mountpoint} is a mount of the repository {status['repository']}, not of {repository}"
        )
    return PrivateMount(mountpoint, int(status["process"]))


def _end(server: process.Popen[bytes], folder: Path) -> None:
    """Unmount, and wait for the end of the process."""
    server.terminate()
    try:
        server.wait(_END_SECONDS)
    except process.TimeoutExpired:
        server.kill()
        server.wait()
    mount = mount_at(folder)
    if mount is not None and mount.is_ours:  # the process ended before it could unmount
        unmount(folder, is_lazy=True)


def serve(repository: str, mountpoint: str, parent: str, keys: str) -> None:
    """Serve a private mount until SIGTERM, which the kernel sends when *parent* ends.

    *keys* is a descriptor with the keys of the repository, or NO_KEYS. Report readiness or an error
    on standard output.
    """
    from cbtfs.mount.lifecycle import MountServer  # Its libraries are of no use to the caller.

    ctypes.CDLL(None).prctl(_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):
        return
    take_keys(int(keys))
    workers = len(os.sched_getaffinity(0))
    try:
        MountServer(Path(repository), Path(mountpoint), workers).serve(lambda: send_ready(_STDOUT))
    except CbtfsError as exc:
        send_error(_STDOUT, exc)
        raise SystemExit(exc.exit_code) from exc
    finally:
        if os.getppid() != int(parent):  # The caller was killed and does not remove it.
            with suppress(OSError):
                os.rmdir(mountpoint)
