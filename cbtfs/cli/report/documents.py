"""JSON documents of restore points. Their members are a contract (docs/commands.md)."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from cbtfs.core.extent import Extent
from cbtfs.core.filenames import GUEST_FILES, disk_names, view_paths
from cbtfs.core.manifest import DiskRecord, Manifest
from cbtfs.core.proof import Proof
from cbtfs.listing import Point

Document = dict[str, Any]


def of_extent(extent: Extent) -> Document:
    return {"start": extent.start, "length": extent.length}


def of_resolved(point: Point) -> Document:
    """Return members that identify the point of a name, in addition to its id."""
    manifest = point.manifest
    return {
        "vm": point.vm_label or manifest.vm.name,
        "time": manifest.time,
        "name": manifest.name,
    }


def of_point(point: Point, *, is_out_of_order: bool) -> Document:
    """Return an item of `list`."""
    manifest = point.manifest
    return {
        "id": manifest.point,
        "vm": manifest.vm.name,
        "vm_id": manifest.vm.id,
        "label": point.vm_label or manifest.vm.name,
        "time": manifest.time,
        "name": manifest.name,
        "time_source": manifest.time_source or "clock",
        "is_out_of_order": is_out_of_order,
        "kind": manifest.kind,
        "state": point.marks,
        "proof_level": None if point.state.proof is None else point.state.proof.level,
        "tags": list(point.state.tags),
        "disks": [
            {
                "disk": disk.label,
                "size": disk.size,
                "data_bytes": disk.data_bytes,
                "method": disk.method,
                "reason": disk.reason,
                "full_reason": disk.full_reason,
                "read_bytes": disk.counts.read_bytes,
                "stored_bytes": disk.counts.stored_bytes,
            }
            for disk in manifest.of_kind("disk")
        ],
        "files": [{"file": file.label, "size": file.size} for file in manifest.of_kind("file")],
        "written_bytes": sum(
            disk.counts.written_blocks * disk.block_size for disk in manifest.of_kind("disk")
        ),
        "stored_bytes": sum(disk.counts.stored_bytes for disk in manifest.disks),
    }


def of_whole_point(point: Point) -> Document:
    """Return the document of `show`: manifest and state file."""
    manifest, state = point.manifest, point.state
    return {
        "id": manifest.point,
        "vm": {**asdict(manifest.vm), "directory": point.directory},
        "label": point.vm_label or manifest.vm.name,
        "time": manifest.time,
        "time_source": manifest.time_source or "clock",
        "name": manifest.name,
        "order": manifest.order,
        "kind": manifest.kind,
        "reason": manifest.reason,
        "committed": manifest.committed,
        "run": manifest.run,
        "program": manifest.program,
        "state": point.marks,
        "suspect": point.suspect,
        "tags": list(state.tags),
        "verified": state.verified,
        "proof": None if state.proof is None else of_proof(state.proof),
        "disks": [
            _of_disk(disk, point.suspect_disk(disk)) | {"images": view_paths(disk, name)}
            for disk, name in zip(manifest.disks, disk_names(manifest.disks), strict=True)
        ],
        "guest_files": GUEST_FILES,
        "metadata": _plain(manifest.metadata),
    }


def of_proof(proof: Proof) -> Document:
    """Return the record of the proof of a point."""
    restored = proof.restore_milliseconds
    return {
        "level": proof.level,
        "time": proof.time,
        "attempted": proof.attempted,
        "program": proof.program,
        "failure": proof.failure,
        "obstacle": proof.obstacle,
        "verdict": proof.verdict,
        "restore_seconds": None if restored is None else restored / 1000,
        "notes": list(proof.notes),
    }


def _of_disk(disk: DiskRecord, suspect: str | None) -> Document:
    return {
        "disk": disk.label,
        "id": disk.id,
        "identity": disk.identity,
        "type": disk.kind,
        "size": disk.size,
        "block_size": disk.block_size,
        "data_bytes": disk.data_bytes,
        "root": disk.root.hex(),
        "kind": disk.ingest,
        "reason": disk.reason,
        "parent": disk.parent,
        "change_id": disk.change_id,
        "suspect": suspect,
        "audit": None if disk.audit is None else _plain(disk.audit),
        "allocation": of_allocation(disk),
        **asdict(disk.counts),
    }


def of_allocation(disk: DiskRecord) -> Document | None:
    """Return the record of areas that were never read; None if there is no record."""
    allocation = disk.allocation
    if allocation is None:
        return None
    return {
        "method": allocation.method,
        "refused": allocation.refused,
        "skipped_bytes": allocation.skipped,
        "unproven_bytes": allocation.unproven_bytes,
        "proven_share": round(allocation.proven_share(disk.size), 6),
        "blocks": allocation.sampled,
        "mismatches": allocation.mismatches,
        "read_bytes": allocation.read_bytes,
    }


def _plain(mapping: Mapping[str, Any]) -> Document:
    return dict(mapping)


def of_ingest(manifest: Manifest, seconds: float) -> Document:
    """Return the document of a point for `ingest --json`."""
    return {
        "point": manifest.point,
        "vm": manifest.vm.name,
        "time": manifest.time,
        "kind": manifest.kind,
        "reason": manifest.reason,
        "seconds": round(seconds, 3),
        "disks": [
            {
                "disk": disk.label,
                "kind": disk.ingest,
                "reason": disk.reason,
                "size": disk.size,
                "read_bytes": disk.counts.read_bytes,
                "written_blocks": disk.counts.written_blocks,
                "zero_blocks": disk.counts.zero_blocks,
                "new_bytes": disk.counts.new_bytes,
                "stored_bytes": disk.counts.stored_bytes,
                "audit": None if disk.audit is None else dict(disk.audit),
                "allocation": of_allocation(disk),
            }
            for disk in manifest.of_kind("disk")
        ],
        "files": [
            {
                "file": file.label,
                "size": file.size,
                "new_bytes": file.counts.new_bytes,
                "stored_bytes": file.counts.stored_bytes,
            }
            for file in manifest.of_kind("file")
        ],
    }
