"""A writable copy of a volume for one test: an image in a temporary directory over its file.

A guard, a small interpreter, removes the directory and the mount in it if this process is killed:
a mount of a daemon that the kernel kills would stay.
"""

import ctypes
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cbtfs import process
from cbtfs.errors import MountFailed, UsageError
from cbtfs.mount.mountpoint import unmount
from cbtfs.mount.mounts import mount_at
from cbtfs.overlay.exports import fuse_exports
from cbtfs.prove.part import Untestable
from cbtfs.qemu.composed import ComposedDisk, blockdevs
from cbtfs.qemu.daemon import find_daemon, storage_daemon
from cbtfs.qemu.images import create_image, find_qemu_img

_GUARD: Final = "from cbtfs.prove.scratch import guard; guard(*sys.argv[1:])"
_SET_PDEATHSIG: Final = 1
"""PR_SET_PDEATHSIG of linux/prctl.h."""


@contextmanager
def scratch_copy(path: Path, size: int) -> Iterator[Path]:
    """Show the volume at *path*, a file of a mount, as a writable file until the end of the block.

    Raises:
        Untestable: QEMU's programs are missing, or cannot show it.
    """
    try:
        find_qemu_img()
        find_daemon()
    except UsageError as exc:
        raise Untestable(str(exc)) from exc
    with guarded_folder() as folder:
        image, target, runtime = folder / "image.qcow2", folder / "volume.raw", folder / "run"
        create_image(image, size)
        target.touch(0o600)
        runtime.mkdir()
        options = [
            *blockdevs([ComposedDisk(image, path)]),
            *fuse_exports([target], allows_others=os.geteuid() == 0),
        ]
        try:
            with storage_daemon(options, runtime):
                if mount_at(target) is None:
                    raise MountFailed("qemu-storage-daemon does not show the volume")
                yield target
        except MountFailed as exc:
            raise Untestable(str(exc)) from exc


@contextmanager
def guarded_folder(parent: str | None = None) -> Iterator[Path]:
    """Make a temporary directory, which is removed even if this process is killed.

    *parent*: its parent directory, by default that of temporary files.
    """
    folder = Path(tempfile.mkdtemp(prefix="cbtfs-prove-", dir=parent))
    try:
        with process.start(
            process.interpreter(_GUARD, folder, str(os.getpid())), start_new_session=True
        ) as child:
            try:
                yield folder
            finally:
                child.kill()
    finally:
        _remove(folder)


def _remove(folder: Path) -> None:
    """Unmount the volume, and remove the directory."""
    while mount_at(folder / "volume.raw") is not None:
        unmount(folder / "volume.raw", is_lazy=True)
    shutil.rmtree(folder, ignore_errors=True)


def guard(folder: str, parent: str) -> None:
    """Wait for the end of the process *parent*, then remove *folder*."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    ctypes.CDLL(None).prctl(_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() == int(parent):
        signal.sigwait({signal.SIGTERM})
    _remove(Path(folder))
