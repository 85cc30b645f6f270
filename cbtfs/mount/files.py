"""The files in the directory of one point: its disks, and vm.json."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from cbtfs.core.filenames import GUEST_FILES, SLICES, VM_JSON, disk_names, view_paths
from cbtfs.core.manifest import MAX_DISKS, DiskRecord, Manifest, PointState
from cbtfs.core.moment import parse_moment
from cbtfs.errors import DataCorrupt
from cbtfs.mount.entry import Entry, EntryType, nanoseconds
from cbtfs.mount.inodes import EXTRA, FIRST_DISK, inode_of

_PAGE: Final = 4096


@dataclass(frozen=True, slots=True)
class PointFiles:
    """The files of one point according to its manifest."""

    manifest: Manifest
    base: int
    time_ns: int
    disks: tuple[Entry, ...]

    def find(self, name: str) -> Entry | None:
        """Return the entry of a disk by its file name, or None."""
        return next((entry for entry in self.disks if entry.name == name), None)

    def at(self, slot: int) -> tuple[DiskRecord, Entry] | None:
        """Return record and entry of the disk in a slot, or None."""
        index = slot - FIRST_DISK
        if not 0 <= index < len(self.disks):
            return None
        return self.manifest.disks[index], self.disks[index]

    def vm_json(self, size: int) -> Entry:
        """Return the entry of vm.json, whose content follows the state of the point."""
        inode = inode_of(self.base, EXTRA)
        return Entry(
            VM_JSON, inode, EntryType.FILE, self.time_ns, size, size, is_name_permanent=True
        )

    def entries(self, json_size: Callable[[], int], after: int = 0) -> Iterator[tuple[Entry, int]]:
        """Yield the entries after offset *after*, each with its permanent offset."""
        if after < EXTRA:
            yield self.vm_json(json_size()), EXTRA
        for slot, entry in enumerate(self.disks, FIRST_DISK):
            if slot > after:
                yield entry, slot


def files_of(manifest: Manifest, base: int) -> PointFiles:
    """Return the files of a point.

    Raises:
        DataCorrupt: the point has more disks than slots, or an invalid time.
    """
    if len(manifest.disks) > MAX_DISKS:
        raise DataCorrupt(
            f"cannot show point {manifest.point}: it has {len(manifest.disks)} disks, the mount "
            f"shows at most {MAX_DISKS}; use 'cbtfs restore'"
        )
    try:
        time = nanoseconds(parse_moment(manifest.time))
    except ValueError as exc:
        raise DataCorrupt(f"point {manifest.point}: {exc}") from exc
    names = zip(manifest.disks, disk_names(manifest.disks), strict=True)
    disks = [
        _disk_entry(disk, name, inode_of(base, slot), time)
        for slot, (disk, name) in enumerate(names, FIRST_DISK)
    ]
    return PointFiles(manifest, base, time, tuple(disks))


def _disk_entry(disk: DiskRecord, name: str, inode: int, time: int) -> Entry:
    page_aligned_size = -(-disk.size // _PAGE) * _PAGE
    return Entry(
        name,
        inode,
        EntryType.FILE,
        time,
        size=disk.size,
        allocated_bytes=min(disk.data_blocks * disk.block_size, page_aligned_size),
        is_name_permanent=True,
        is_content_permanent=True,
    )


def encode_vm_json(manifest: Manifest, state: PointState, *, is_damaged: bool) -> bytes:
    """Return the content of vm.json, which depends only on manifest and state."""
    suspect = state.suspect or next((d.suspect for d in manifest.disks if d.suspect), None)
    document = {
        "point": manifest.point,
        "time": manifest.time,
        "name": manifest.name,
        "order": manifest.order,
        "committed": manifest.committed,
        "run": manifest.run,
        "program": manifest.program,
        "kind": manifest.kind,
        "reason": manifest.reason,
        "state": {
            "damaged": is_damaged,
            "suspect": suspect,
            "protected": state.is_protected,
            "tags": list(state.tags),
            "verified": state.verified,
        },
        "vm": asdict(manifest.vm),
        "slices": SLICES,
        "guest_files": GUEST_FILES,
        "disks": [
            {**_disk_document(disk, state), "images": view_paths(disk, name)}
            for disk, name in zip(manifest.disks, disk_names(manifest.disks), strict=True)
            if disk.kind == "disk"
        ],
        "files": [{"file": file.label, "size": file.size} for file in manifest.of_kind("file")],
        "metadata": manifest.metadata,
    }
    return (json.dumps(document, indent=2, ensure_ascii=True) + "\n").encode()


def _disk_document(disk: DiskRecord, state: PointState) -> Mapping[str, Any]:
    return {
        "disk": disk.label,
        "id": disk.id,
        "identity": disk.identity,
        "kind": disk.kind,
        "size": disk.size,
        "block_size": disk.block_size,
        "data_bytes": min(disk.data_blocks * disk.block_size, disk.size),
        "ingest": disk.ingest,
        "reason": disk.reason,
        "parent": disk.parent,
        "change_id": disk.change_id,
        "suspect": state.suspects(disk.id) or disk.suspect,
        "audit": disk.audit,
        "allocation": None if disk.allocation is None else asdict(disk.allocation),
        "root": disk.root.hex(),
    }
