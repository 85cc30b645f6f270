"""The directory of a running overlay: mount points, socket, and the links that lead to them.

A raw file is a mount over an empty file. Nobody should see that file, neither before the mount nor
after a crash. So it is in a directory of its own, on a file system that a restart of the host
empties, and a link leads to it from the time at which it shows the disk.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cbtfs.core.names import printable
from cbtfs.core.sealed import MAX_BYTES, seal, unseal
from cbtfs.errors import CbtfsError, DataCorrupt, UsageError
from cbtfs.mount.mountpoint import unmount
from cbtfs.mount.mounts import mount_at
from cbtfs.overlay.folder import OverlayFolder
from cbtfs.store.files import load_file, replace

TRACES: Final = "run.json"
SOCKET: Final = "nbd.sock"
_PREFIX: Final = "cbtfs-overlay-"
_RUN: Final = Path("/run")


@dataclass(frozen=True, slots=True)
class Runtime:
    """Mount points or socket of a running overlay, each with the link that leads to it."""

    path: Path
    links: tuple[tuple[Path, Path], ...]
    """Link and target of each disk, or of the socket."""

    def show(self) -> None:
        """Make the links. UsageError if something else has one of their names."""
        for link, target in self.links:
            aside = link.with_name(f".{link.name}.{os.getpid()}")
            aside.unlink(missing_ok=True)
            aside.symlink_to(target)
            try:
                # Not os.rename(): that would replace a file of the user.
                os.link(aside, link, follow_symlinks=False)
            except FileExistsError as exc:
                raise UsageError(f"{printable(str(link))} exists: name another directory") from exc
            finally:
                aside.unlink()

    def hide(self) -> None:
        """Remove the links; others of their names stay."""
        for link, target in self.links:
            with suppress(OSError):
                if link.is_symlink() and link.readlink() == target:
                    link.unlink()

    def remove(self) -> None:
        """Remove the links, unmount what is mounted, and remove the directory."""
        self.hide()
        for _, target in self.links:
            while mount_at(target) is not None:
                unmount(target, is_lazy=True)
        shutil.rmtree(self.path, ignore_errors=True)


def _runtime_base() -> Path:
    """Return a directory that is empty after a restart of the host, if there is one."""
    if os.access(_RUN, os.W_OK):
        return _RUN
    own = Path(os.environ.get("XDG_RUNTIME_DIR") or "/")
    return own if own.is_absolute() and os.access(own, os.W_OK) else Path(tempfile.gettempdir())


@contextmanager
def new_runtime(
    folder: OverlayFolder, directory: Path, links: Sequence[str], targets: Sequence[str]
) -> Iterator[Runtime]:
    """Make the runtime directory; remove it, with all mounts and links, at the end of the block.

    *links* are names in *directory*, *targets* those in the runtime directory that they lead to.
    """
    for name in links:
        if os.path.lexists(directory / name):
            raise UsageError(f"{printable(str(directory / name))} exists: name another directory")
    path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_runtime_base()))
    pairs = zip(links, targets, strict=True)
    runtime = Runtime(path, tuple((directory / link, path / target) for link, target in pairs))
    document = {
        "path": str(path),
        "links": [[str(link), str(target)] for link, target in runtime.links],
    }
    try:
        replace(folder.path / TRACES, seal(document))
        yield runtime
    finally:
        runtime.remove()
        (folder.path / TRACES).unlink(missing_ok=True)


def remove_traces(folder: OverlayFolder) -> None:
    """Remove what a killed start has left: dead mounts, links, the runtime directory.

    Only for the holder of the lock of the overlay.
    """
    runtime = load_runtime(folder)
    if runtime is not None:
        runtime.remove()
    (folder.path / TRACES).unlink(missing_ok=True)


def load_runtime(folder: OverlayFolder) -> Runtime | None:
    """Return the runtime directory of the last start that has not removed it, or None."""
    try:
        document = unseal(load_file(folder.path / TRACES, MAX_BYTES))
        links = tuple((Path(link), Path(target)) for link, target in document["links"])
        runtime = Runtime(Path(document["path"]), links)
    except (OSError, ValueError, KeyError, TypeError, json.JSONDecodeError, DataCorrupt):
        return None
    is_ours = runtime.path.name.startswith(_PREFIX) and runtime.path.is_absolute()
    inside = all(target.parent == runtime.path for _, target in links)
    if not is_ours or not inside:
        raise CbtfsError(f"{printable(str(folder.path / TRACES))} has other paths: remove it")
    return runtime
