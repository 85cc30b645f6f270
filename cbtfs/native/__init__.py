"""Compiled code that reads and verifies chunks and answers FUSE reads without Python's lock.

docs/decisions/0013-reads-are-answered-by-compiled-code.md states the reasons and the limits.
"""

from cbtfs.native._core import (
    Chunks,
    Leaf,
    PackFile,
    Requests,
    blake3,
    crc32,
    crc32c,
    crc_table,
    exit_on_fault,
    has_blake3,
    has_deleted_pack_files,
    is_cached,
    matching_blocks,
    matching_in_file,
    node_children,
    node_entries,
    open_header,
    open_pack_files,
    open_payload,
    seal_frame,
)

__all__ = [
    "Chunks",
    "Leaf",
    "PackFile",
    "Requests",
    "blake3",
    "crc32",
    "crc32c",
    "crc_table",
    "exit_on_fault",
    "has_blake3",
    "has_deleted_pack_files",
    "is_cached",
    "matching_blocks",
    "matching_in_file",
    "node_children",
    "node_entries",
    "open_header",
    "open_pack_files",
    "open_payload",
    "seal_frame",
]
