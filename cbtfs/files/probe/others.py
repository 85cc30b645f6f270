"""btrfs, swap, LUKS, MD, LVM and other contents that a signature shows.

Sources: Linux, fs/btrfs (on-disk format), include/linux/swap.h, include/uapi/linux/raid/md_p.h;
cryptsetup, LUKS1 and LUKS2 on-disk format; LVM2, lib/format_text/layout.h.
"""

import struct
from itertools import pairwise
from typing import Final

from cbtfs.files.probe.values import NOTHING, Kind, Probe, State, named_bits, text_of, uuid_of
from cbtfs.native import crc32c
from cbtfs.volumes.source import Source, read_bytes

_BTRFS: Final = 64 << 10
_BTRFS_INCOMPAT: Final = {
    0x1: "mixed-backref",
    0x2: "default-subvol",
    0x4: "mixed-groups",
    0x8: "lzo",
    0x10: "zstd",
    0x20: "big-metadata",
    0x40: "extended-iref",
    0x80: "raid56",
    0x100: "skinny-metadata",
    0x200: "no-holes",
    0x400: "metadata-uuid",
    0x800: "raid1c34",
    0x1000: "zoned",
    0x2000: "extent-tree-v2",
    0x4000: "raid-stripe-tree",
    0x10000: "simple-quota",
}
_PAGES: Final = (4096, 8192, 16384, 32768, 65536)
_SWAP_MAGICS: Final = (b"SWAPSPACE2", b"SWAP-SPACE")
_SUSPENDED: Final = (b"S1SUSPEND", b"S2SUSPEND", b"ULSUSPEND", b"LINHIB0001")
_MD_MAGIC: Final = 0xA92B4EFC
_MD_OLD_BYTES: Final = 64 << 10
_LVM_UUID: Final = (0, 6, 10, 14, 18, 22, 26, 32)


def probe_btrfs(source: Source) -> Probe | None:
    """Probe the first superblock of btrfs, or return None."""
    data = read_bytes(source, _BTRFS, 4096)
    if data[64:72] != b"_BHRfS_M" or len(data) < 4096:
        return None
    (log_root,) = struct.unpack_from("<Q", data, 96)
    (devices,) = struct.unpack_from("<Q", data, 136)
    (incompat,) = struct.unpack_from("<Q", data, 188)
    (checksum,) = struct.unpack_from("<H", data, 196)
    if not checksum and crc32c(data[32:], 0xFFFFFFFF) ^ 0xFFFFFFFF != int.from_bytes(
        data[:4], "little"
    ):
        return NOTHING
    state, detail = State.CLEAN, ""
    if log_root:
        state, detail = State.PENDING, "its log tree needs a replay"
    features = list(named_bits(incompat, _BTRFS_INCOMPAT, "incompat"))
    if devices > 1:
        features.append("multiple-devices")
    uuid, label = uuid_of(data[32:48]), text_of(data[299 : 299 + 256])
    return Probe(Kind.BTRFS, state, uuid, label, frozenset(features), detail)


def probe_swap(source: Source) -> Probe | None:
    """Return swap space, or None. A suspended system in it has file systems in use."""
    for page in _PAGES:
        magic = read_bytes(source, page - 10, 10)
        if magic in _SWAP_MAGICS or magic.rstrip(b"\0") in _SUSPENDED:
            data = read_bytes(source, 1024, 64)
            is_suspended = magic not in _SWAP_MAGICS
            state, detail = State.CLEAN, ""
            if is_suspended:
                state, detail = State.PENDING, "it has a suspended system"
            return Probe(
                Kind.SWAP, state, uuid_of(data[12:28]), text_of(data[28:44]), detail=detail
            )
    return None


def probe_luks(source: Source) -> Probe | None:
    """Return a LUKS header, or None."""
    data = read_bytes(source, 0, 512)
    if data[:6] != b"LUKS\xba\xbe" or len(data) < 512:
        return None
    version = int.from_bytes(data[6:8], "big")
    label = text_of(data[24:72]) if version == 2 else ""
    return Probe(
        Kind.LUKS, State.UNKNOWN, text_of(data[168:208]), label, frozenset({f"v{version}"})
    )


def probe_md(source: Source) -> Probe | None:
    """Return a member of a Linux software RAID, or None; its superblock can be at the end."""
    sectors = source.size // 512
    for at in ((sectors - 16) // 8 * 8 * 512, 0, 4096):
        data = read_bytes(source, at, 256)
        if len(data) == 256 and struct.unpack_from("<II", data) == (_MD_MAGIC, 1):
            uuid, label = uuid_of(data[16:32]), text_of(data[32:64])
            level = int.from_bytes(data[72:76], "little", signed=True)
            return Probe(Kind.MD, State.UNKNOWN, uuid, label, frozenset({f"raid{level}"}))
    at = source.size // _MD_OLD_BYTES * _MD_OLD_BYTES - _MD_OLD_BYTES
    data = read_bytes(source, at, 256)
    for order in "<>":
        if len(data) == 256 and struct.unpack_from(f"{order}II", data) == (_MD_MAGIC, 0):
            words = struct.unpack_from(f"{order}I", data, 20) + struct.unpack_from(
                f"{order}3I", data, 52
            )
            level = struct.unpack_from(f"{order}i", data, 28)[0]
            uuid = uuid_of(struct.pack(">4I", *words))
            return Probe(Kind.MD, State.UNKNOWN, uuid, features=frozenset({f"raid{level}"}))
    return None


def probe_lvm(source: Source) -> Probe | None:
    """Return a physical volume of LVM2, or None."""
    data = read_bytes(source, 0, 2048)
    for at in range(0, len(data) - 511, 512):
        if data[at : at + 8] == b"LABELONE" and data[at + 24 : at + 32] == b"LVM2 001":
            start = at + int.from_bytes(data[at + 20 : at + 24], "little")
            text = read_bytes(source, start, 32).decode("ascii", "replace")
            groups = (text[first:end] for first, end in pairwise(_LVM_UUID))
            return Probe(Kind.LVM, State.UNKNOWN, "-".join(groups) if text.isalnum() else "")
    return None


def probe_windows(source: Source) -> Probe | None:
    """Return BitLocker or ReFS, of which only the boot sector is known, or None."""
    name = read_bytes(source, 3, 8)
    if name == b"-FVE-FS-":
        return Probe(Kind.BITLOCKER)
    return Probe(Kind.REFS) if name == b"ReFS\0\0\0\0" else None
