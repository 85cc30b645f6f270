"""What is compiled: chunks read and verified, FUSE reads answered, without Python's lock.

The profile that put it here, and what it may do, stand in docs/decisions/.
"""

from cbtfs.native._core import (
    Chunks,
    Leaf,
    PackFile,
    Requests,
    crc_table,
    end_at_faults,
    open_pack_files,
    removed_pack_files,
)

__all__ = [
    "Chunks",
    "Leaf",
    "PackFile",
    "Requests",
    "crc_table",
    "end_at_faults",
    "open_pack_files",
    "removed_pack_files",
]
