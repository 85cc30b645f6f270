"""The loop devices, mounts and processes that keep a file system busy."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cbtfs.core.names import printable
from cbtfs.mount.mounts import Mount, mounts

_BLOCK_DEVICES: Final = Path("/sys/class/block")


def holders(path: Path) -> list[str]:
    """Describe the loop devices, mounts and processes that use the file system at *path*.

    The mount point may be a file.
    """
    inside = f"{path}/"
    mounted = list(mounts())
    descriptions = [
        f"/dev/{name} on {printable(file)}{_mounted_from(name, mounted)}"
        for name, file in _loops()
        if file == str(path) or file.startswith(inside)
    ]
    descriptions += [f"the mount {printable(m.path)}" for m in mounted if m.path.startswith(inside)]
    for number in sorted((p for p in os.listdir("/proc") if p.isdigit()), key=int):
        if int(number) == os.getpid():
            continue
        file = next((f for f in _open_files(number) if f == str(path) or f.startswith(inside)), "")
        if file:
            descriptions.append(f"process {number} ({_command(number)}) on {printable(file)}")
    return descriptions


def _loops() -> Iterator[tuple[str, str]]:
    with contextlib.suppress(FileNotFoundError):
        for name in sorted(os.listdir("/sys/block")):
            with contextlib.suppress(OSError):
                file = Path("/sys/block", name, "loop", "backing_file").read_bytes()
                yield name, os.fsdecode(file).rstrip("\n")


def _mounted_from(loop: str, mounted: list[Mount]) -> str:
    """Describe the file systems of a loop device, its partitions and the devices above them."""
    uses = [
        f"/dev/{name} is mounted on {printable(mount.path)}"
        for name in _stacked_on(loop)
        for mount in mounted
        if _is_of(mount, name)
    ]
    return f" ({', '.join(uses)})" if uses else ""


def _is_of(mount: Mount, name: str) -> bool:
    """Return whether a block device is the source of a mount.

    Btrfs has device numbers of its own, so its source is compared as well.
    """
    if mount.device == _device_number(name):
        return True
    return mount.source.startswith("/dev/") and os.path.realpath(mount.source) == f"/dev/{name}"


def _stacked_on(name: str) -> Iterator[str]:
    """Yield a block device, its partitions, and the devices of LVM or LUKS that are above them."""
    yield name
    folder = _BLOCK_DEVICES / name
    with contextlib.suppress(OSError):
        for child in sorted(os.listdir(folder)):
            if (folder / child / "partition").exists():
                yield from _stacked_on(child)
    with contextlib.suppress(OSError):
        for holder in sorted(os.listdir(folder / "holders")):
            yield from _stacked_on(holder)


def _device_number(name: str) -> str:
    try:
        return (_BLOCK_DEVICES / name / "dev").read_text().strip()
    except OSError:
        return ""


def _open_files(process: str) -> Iterator[str]:
    folder = f"/proc/{process}"
    links = [f"{folder}/cwd", f"{folder}/root"]
    with contextlib.suppress(OSError):
        links += [f"{folder}/fd/{fd}" for fd in os.listdir(f"{folder}/fd")]
    for link in links:
        with contextlib.suppress(OSError):
            yield os.readlink(link)


def _command(process: str) -> str:
    try:
        return printable(Path("/proc", process, "comm").read_text().strip())
    except OSError:
        return "ended"
