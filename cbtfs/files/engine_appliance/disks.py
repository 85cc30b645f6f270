"""The volumes of the disks of an appliance, by the names that slices have."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from cbtfs.files.engine_appliance.library import Guestfs, GuestfsError

_LUKS: Final = "crypto_LUKS"
_FACTS: Final = ("vfs_type", "vfs_uuid", "vfs_label")
_MEMBERS: Final = frozenset({"LVM2_member", "linux_raid_member"})


@dataclass(frozen=True, slots=True)
class Device:
    """A block device of the appliance that can have a file system."""

    name: str
    """That of its slice: "root.p1", "vg0/data", "root"; "md127" for an array."""
    path: bytes
    kind: str
    """As blkid has it; empty if it is unknown."""
    uuid: str = ""
    label: str = ""
    is_locked: bool = False
    """Whether it is encrypted, and no key opens it."""


def devices(library: Guestfs, labels: Sequence[str], keys: Sequence[bytes]) -> list[Device]:
    """Return the devices with a content, after arrays, keys and volume groups are in use.

    *labels*: names of the disks, in the order in which they were added.

    Raises:
        GuestfsError: the appliance does not answer.
    """
    disks = dict(zip(library.texts("list_devices"), labels, strict=True))
    partitions = library.texts("list_partitions")
    parents = {library.text("part_to_dev", partition) for partition in partitions}
    named = [(label, path) for path, label in disks.items() if path not in parents]
    for partition in partitions:
        label = disks[library.text("part_to_dev", partition)]
        number = library.do("part_to_partnum", partition)
        named.append((f"{label}.p{number}", partition))
    arrays = library.texts("list_md_devices")
    named += [(path.rpartition(b"/")[2].decode(), path) for path in arrays]
    found = [_opened(library, _device(library, *item), keys) for item in named]
    library.do("lvm_scan", 1)
    found += [_opened(library, device, keys) for device in _logical(library)]
    return [device for device in found if device.kind not in _MEMBERS]


def _device(library: Guestfs, name: str, path: bytes) -> Device:
    kind, uuid, label = (_fact(library, fact, path) for fact in _FACTS)
    return Device(name, path, kind, uuid, label)


def _fact(library: Guestfs, fact: str, path: bytes) -> str:
    try:
        return library.text(fact, path).decode("utf-8", "replace")
    except GuestfsError:
        return ""


def _logical(library: Guestfs) -> Iterator[Device]:
    for path in library.texts("lvs"):
        yield _device(library, path.decode().removeprefix("/dev/"), path)


def _opened(library: Guestfs, device: Device, keys: Sequence[bytes]) -> Device:
    """Return the content of an encrypted device, if one of the keys opens it."""
    if device.kind != _LUKS:
        return device
    mapped = b"luks-" + device.name.replace("/", "-").encode()
    for key in keys:
        try:
            library.do("luks_open", device.path, key, mapped)
        except GuestfsError:
            continue
        return _device(library, device.name, b"/dev/mapper/" + mapped)
    return Device(device.name, device.path, _LUKS, device.uuid, device.label, is_locked=True)
