"""The recovery of the log of an XFS, by the kernel of a small guest of libguestfs.

No program replays this log, and this host does not mount the file system. libguestfs and its QEMU
run in a sandbox, with the appliance that libguestfs keeps for the user.
"""

import os
import threading
from pathlib import Path
from typing import Final

from cbtfs.prove.confined import Confinement
from cbtfs.prove.part import Untestable
from cbtfs.prove.scratch import guarded_folder
from cbtfs.prove.tool import Ran, find_tool, run_tool
from cbtfs.qemu.accelerator import choose_accelerator

_BUILD_SECONDS: Final = 600.0
_CACHE: Final = "/var/tmp"
_SOCKETS: Final = "/tmp"
"""Directory with a short name: a path of a socket has at most 107 bytes."""
_FILES: Final = ("kernel", "initrd", "root")
_MARK: Final = "README.fixed"
"""File beside an appliance that libguestfs does not build: libguestfs-make-fixed-appliance(1)."""
_OTHERS_WRITE: Final = 0o022
_REPLAY: Final = ("run", ":", "mount", "/dev/sda", "/", ":", "umount-all")


def replay(volume: Path, stop: threading.Event, seconds: float) -> str | None:
    """Replay the log of the XFS in the file *volume*; return why it cannot be replayed.

    *volume* is in a directory for temporary files.

    Raises:
        Untestable: libguestfs is missing, or does not run.
        Stopped: *stop* was set.
    """
    guestfish = find_tool("guestfish", "libguestfs-tools")
    folder = volume.parent / "guestfish"
    folder.mkdir()
    appliance = prepared_appliance(guestfish, folder, stop)
    with guarded_folder(_SOCKETS) as sockets:
        confinement = Confinement(
            readable=[path.resolve() for path in appliance.iterdir()],
            writable=[volume],
            folders=[folder, sockets],
            devices=[Path("/dev/kvm")],
            allows_sockets=True,
            has_namespaces=True,
            seconds=seconds,
        )
        done = run_tool(
            [guestfish, "--format=raw", "-a", volume, *_REPLAY],
            stop,
            seconds,
            confinement,
            LIBGUESTFS_BACKEND="direct",
            LIBGUESTFS_BACKEND_SETTINGS="force_tcg" if choose_accelerator("auto") == "tcg" else "",
            LIBGUESTFS_PATH=str(appliance),
            LIBGUESTFS_CACHEDIR=str(folder),
            LIBGUESTFS_TMPDIR=str(folder),
            TMPDIR=str(folder),
            XDG_RUNTIME_DIR=str(sockets),
        )
    if done.code != 0 and "libguestfs: error: mount" in done.output:
        return f"its log cannot be replayed: {_error(done)}"
    if done.code != 0:
        raise Untestable(f"guestfish failed to replay its log: {_error(done)}")
    return None


def prepared_appliance(guestfish: str, folder: Path, stop: threading.Event) -> Path:
    """Return a directory in *folder* with the appliance of libguestfs, which is built if needed.

    The sandbox cannot build it, because it is made of the files of this system. A start without a
    hypervisor builds it, and fails then.

    Raises:
        Untestable: it is not built, or another user can have changed it.
        Stopped: *stop* was set.
    """
    started = run_tool(
        [guestfish, "-a", "/dev/null", "run"],
        stop,
        _BUILD_SECONDS,
        LIBGUESTFS_BACKEND="direct",
        LIBGUESTFS_HV=find_tool("false", "coreutils"),
        LIBGUESTFS_CACHEDIR=_CACHE,
    )
    built = Path(_CACHE, f".guestfs-{os.geteuid()}", "appliance.d")
    appliance = folder / "appliance"
    appliance.mkdir()
    (appliance / _MARK).touch()
    for name in _FILES:
        (appliance / name).symlink_to(built / name)
        if not _is_ours(built.parent, built, built / name):
            raise Untestable(f"libguestfs did not build its appliance: {_error(started)}")
    return appliance


def _is_ours(*paths: Path) -> bool:
    """Return whether these files exist, and nobody else can have made or changed them."""
    try:
        facts = [path.lstat() for path in paths]
    except OSError:
        return False
    user = os.geteuid()
    return all(fact.st_uid == user and not fact.st_mode & _OTHERS_WRITE for fact in facts)


def _error(ran: Ran) -> str:
    """Return the first error of guestfish; advice follows it."""
    errors = (line.partition("libguestfs: error: ")[2] for line in ran.lines)
    last = ran.lines[-1] if ran.lines else f"no output, exit code {ran.code}"
    return next(filter(None, errors), last)
