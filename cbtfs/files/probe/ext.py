"""ext2, ext3, ext4 and external journals.

Source: Linux, Documentation/filesystems/ext4/globals.rst and fs/ext4/ext4.h.
"""

import struct
from typing import Final

from cbtfs.files.probe.values import NOTHING, Kind, Probe, State, named_bits, text_of, uuid_of
from cbtfs.volumes.source import Source, read_bytes

_SUPERBLOCK: Final = 1024
_MAGIC: Final = 0xEF53
_COMPAT: Final = {
    0x1: "dir_prealloc",
    0x2: "imagic_inodes",
    0x4: "has_journal",
    0x8: "ext_attr",
    0x10: "resize_inode",
    0x20: "dir_index",
    0x200: "sparse_super2",
    0x400: "fast_commit",
    0x800: "stable_inodes",
    0x1000: "orphan_file",
}
_INCOMPAT: Final = {
    0x1: "compression",
    0x2: "filetype",
    0x4: "needs_recovery",
    0x8: "journal_dev",
    0x10: "meta_bg",
    0x40: "extent",
    0x80: "64bit",
    0x100: "mmp",
    0x200: "flex_bg",
    0x400: "ea_inode",
    0x1000: "dirdata",
    0x2000: "metadata_csum_seed",
    0x4000: "large_dir",
    0x8000: "inline_data",
    0x10000: "encrypt",
    0x20000: "casefold",
}
_RO_COMPAT: Final = {
    0x1: "sparse_super",
    0x2: "large_file",
    0x4: "btree_dir",
    0x8: "huge_file",
    0x10: "uninit_bg",
    0x20: "dir_nlink",
    0x40: "extra_isize",
    0x80: "has_snapshot",
    0x100: "quota",
    0x200: "bigalloc",
    0x400: "metadata_csum",
    0x800: "replica",
    0x1000: "read-only",
    0x2000: "project",
    0x4000: "shared_blocks",
    0x8000: "verity",
    0x10000: "orphan_present",
}
_EXT3_INCOMPAT: Final = 0x2 | 0x4 | 0x10
_EXT3_RO_COMPAT: Final = 0x1 | 0x2 | 0x4
_MAX_LOG_BLOCK: Final = 6
_VALID: Final = 1
_ERRORS: Final = 2


def probe_ext(source: Source) -> Probe | None:
    """Probe an ext superblock, or return None."""
    data = read_bytes(source, _SUPERBLOCK, 1024)
    if len(data) < 1024 or int.from_bytes(data[0x38:0x3A], "little") != _MAGIC:
        return None
    (state,) = struct.unpack_from("<H", data, 0x3A)
    (revision,) = struct.unpack_from("<I", data, 0x4C)
    # Revision 0 has no features, and random bytes in their place.
    compat, incompat, ro_compat = struct.unpack_from("<III", data, 0x5C) if revision else (0, 0, 0)
    features = (
        *named_bits(compat, _COMPAT, "compat"),
        *named_bits(incompat, _INCOMPAT, "incompat"),
        *named_bits(ro_compat, _RO_COMPAT, "ro-compat"),
    )
    is_journal = bool(incompat & 0x8)
    groups = int.from_bytes(data[0x28:0x2C], "little")
    if int.from_bytes(data[0x18:0x1C], "little") > _MAX_LOG_BLOCK or not (groups or is_journal):
        return NOTHING
    found, detail = State.CLEAN, ""
    if "needs_recovery" in features:
        found, detail = State.PENDING, "its journal needs a replay"
    elif not state & _VALID:
        found, detail = State.UNCLEAN, "it was in use"
    elif state & _ERRORS:
        found, detail = State.UNCLEAN, "it has recorded errors"
    uuid, label = uuid_of(data[0x68:0x78]), text_of(data[0x78:0x88])
    kind = _kind(compat, incompat, ro_compat)
    return Probe(kind, found, uuid, label, frozenset(features), detail)


def _kind(compat: int, incompat: int, ro_compat: int) -> Kind:
    """Return the oldest of the three that has these features, as blkid does."""
    if incompat & 0x8:
        return Kind.JOURNAL
    if incompat & ~_EXT3_INCOMPAT or ro_compat & ~_EXT3_RO_COMPAT:
        return Kind.EXT4
    return Kind.EXT3 if compat & 0x4 else Kind.EXT2
