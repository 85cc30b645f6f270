"""The block nodes of an overlay: its images over the raw files of a mount."""

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Final

from cbtfs.core.manifest import Manifest
from cbtfs.core.overlay import Overlay, OverlayDisk, area_end
from cbtfs.mount.private import PrivateMount, shared_mount, starting_mount
from cbtfs.overlay.base import disks_of
from cbtfs.overlay.folder import OverlayFolder
from cbtfs.qemu.composed import ComposedDisk, blockdevs
from cbtfs.qemu.images import whole_sectors
from cbtfs.qemu.joint import JointImage, Window, descriptor, joint_blockdevs

_DESCRIPTOR: Final = "base.vmdk"


def compose(
    folder: OverlayFolder, overlay: Overlay, bases: list[Path], runtime: Path, *, is_read_only: bool
) -> list[str]:
    """Return QEMU's options that show each disk of *overlay* as a node over its base.

    *bases*: see base_files(). The descriptor of the base of a joint image is made in *runtime*.
    """
    if not overlay.is_joint:
        disks = [
            ComposedDisk(folder.image(disk), base, overlay.limit)
            for disk, base in zip(overlay.disks, bases, strict=True)
        ]
        return blockdevs(disks, is_read_only=is_read_only)
    names = [f"base{number}" for number in range(len(bases))]
    for name, base in zip(names, bases, strict=True):
        (runtime / name).symlink_to(base)
    path = runtime / _DESCRIPTOR
    windows = [_window(disk) for disk in overlay.disks]
    sizes = [area_end(disk) - (disk.offset or 0) for disk in overlay.disks]
    path.write_text(descriptor(names, sizes), "ascii")
    assert overlay.limit is not None
    joint = JointImage(folder.image(overlay.disks[0]), path, overlay.limit, windows)
    return joint_blockdevs(joint, is_read_only=is_read_only)


def _window(disk: OverlayDisk) -> Window:
    assert disk.offset is not None
    return Window(disk.offset, whole_sectors(disk.size))


def base_mount(
    repository: Path, mountpoint: Path | None, stack: ExitStack
) -> Callable[[], PrivateMount]:
    """Start a mount for an overlay, which ends with *stack*; call the result to wait for it.

    With *mountpoint* the mount is the one that others have made there.
    """
    if mountpoint is not None:
        return partial(shared_mount, repository, mountpoint)
    return stack.enter_context(starting_mount(repository)).wait


def base_files(overlay: Overlay, manifest: Manifest, mounted: PrivateMount) -> list[Path]:
    """Return the raw file of each disk of *overlay* in a mount."""
    return [mounted.path(manifest, record) for record in disks_of(overlay, manifest)]
