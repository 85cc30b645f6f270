"""Shared tools of tests: repositories and restore points without the command ingest."""

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cbtfs import listing
from cbtfs.core.blockmap import FANOUT, Builder, Shape, Tree
from cbtfs.core.frame import Kind
from cbtfs.core.ids import NULL_DIGEST, Ref
from cbtfs.core.manifest import DiskKind, DiskRecord, Manifest, Vm
from cbtfs.core.moment import format_moment, point_name
from cbtfs.core.names import encode_name
from cbtfs.reader import Reader
from cbtfs.store.codec import Encoder
from cbtfs.store.identity import new_disk_id, new_id, new_point_id, new_vm_id
from cbtfs.store.pack import PACK_BYTES
from cbtfs.store.repository import (
    Repository,
    create_repository,
    reading,
    writing,
)
from cbtfs.store.settings import new_settings
from cbtfs.store.writer import ObjectWriter

BLOCK: Final = 4096
"""Block size in bytes: the minimum, which keeps tests fast."""
MEMORY: Final = Path("/dev/shm")
"""Directory for fast files, if there is one: most tests do not depend on flushes."""
SIGNALS: Final = ("env", "--default-signal=INT,TERM,HUP")
"""Put before the command of a child that gets a signal. A shell has what is behind & ignore SIGINT,
nohup has SIGHUP ignored, and children inherit that."""
EPOCH: Final = datetime(2026, 1, 1, tzinfo=UTC)
"""Time of the first point of a VM; each later point is one second later."""


def new_repository(path: Path, block_size: int = BLOCK) -> Path:
    """Create an empty repository at *path*."""
    create_repository(path, new_settings(block_size, 1))
    return path


def add_point(
    path: Path,
    images: Mapping[str, bytes],
    *,
    vm: str = "vm",
    changed: Mapping[str, Iterable[int]] | None = None,
    pack_bytes: int = PACK_BYTES,
    change: Callable[[Manifest], Manifest] = lambda manifest: manifest,
) -> Manifest:
    """Open the repository at *path* for writing and commit one point of *vm*."""
    with writing(path) as repository:
        return commit_point(
            repository, images, vm=vm, changed=changed, pack_bytes=pack_bytes, change=change
        )


def commit_point(
    repository: Repository,
    images: Mapping[str, bytes],
    *,
    vm: str = "vm",
    changed: Mapping[str, Iterable[int]] | None = None,
    pack_bytes: int = PACK_BYTES,
    kind: DiskKind = "disk",
    change: Callable[[Manifest], Manifest] = lambda manifest: manifest,
    writer: ObjectWriter | None = None,
) -> Manifest:
    """Commit a point with one disk for each label in *images*, after the newest of its VM.

    *change* has the last word on its manifest. *writer* puts the objects, and stays open.

    A disk in *changed* is based on the newest point: only the blocks listed there are looked at,
    and those at the end where its size is another one. All other disks are taken whole.
    """
    parent = newest_point(repository, vm)
    objects = writer or ObjectWriter(
        repository.catalog, repository.packs, repository.settings.level, pack_bytes=pack_bytes
    )
    try:
        disks = [
            _put_disk(
                repository,
                objects,
                label,
                image,
                parent,
                None if changed is None else changed.get(label),
                kind,
            )
            for label, image in images.items()
        ]
        manifest = change(manifest_of(vm, parent, tuple(disks)))
        repository.commit(objects, manifest)
    finally:
        if writer is None:
            objects.close()
    return manifest


def newest_point(repository: Repository, vm: str) -> Manifest | None:
    """Return the newest point of the VM with this name."""
    with repository.catalog.view() as view:
        manifests = [
            p.manifest
            for match in listing.find_vms(view, vm)
            for p in listing.points(view, match.id)
        ]
    return manifests[-1] if manifests else None


def read_image(repository: Repository, disk: DiskRecord) -> bytes:
    """Return all bytes of a disk by a new reader."""
    return bytes(Reader(repository).disk(disk).read(0, disk.size))


def read_point(path: Path, manifest: Manifest) -> dict[str, bytes]:
    """Open the repository and return the bytes of all disks of a point."""
    with reading(path) as repository:
        return {disk.label: read_image(repository, disk) for disk in manifest.disks}


def _put_disk(
    repository: Repository,
    objects: ObjectWriter,
    label: str,
    image: bytes,
    parent: Manifest | None,
    changed: Iterable[int] | None,
    kind: DiskKind,
) -> DiskRecord:
    before = None if parent is None else parent.disk(label)
    block_size = repository.settings.block_size
    shape = Shape(len(image), block_size)
    base: Tree[Ref] | None = None
    touched = set(range(shape.blocks))
    if before is not None and changed is not None:
        base = Reader(repository).disk(before).tree()
        touched = {block for block in changed if block < shape.blocks}
        if before.size != len(image):
            touched |= set(range(before.size // block_size, shape.blocks))
            touched |= {shape.blocks - 1} if shape.blocks else set()
    builder = Builder(shape, base, lambda level, children: objects.put_node(level, children).ref)
    encoder = Encoder()
    for leaf in sorted({block // FANOUT for block in touched}):
        children = builder.leaf(leaf)
        for slot in range(FANOUT):
            block = leaf * FANOUT + slot
            if block in touched:
                children[slot] = _put_block(objects, encoder, image, block, block_size)
        builder.put_leaf(leaf, children)
    root = builder.finish()
    blocks = (image[at : at + block_size] for at in range(0, len(image), block_size))
    return DiskRecord(
        id=new_disk_id() if before is None else before.id,
        identity=label,
        label=label,
        kind=kind,
        size=len(image),
        block_size=block_size,
        root=NULL_DIGEST if root is None else root.digest,
        data_blocks=sum(any(block) for block in blocks),
        ingest="full" if base is None else "incremental",
        reason="first" if before is None else "a test asked for it",
        parent=None if base is None or parent is None else parent.point,
    )


def _put_block(
    objects: ObjectWriter, encoder: Encoder, image: bytes, block: int, block_size: int
) -> Ref | None:
    data = image[block * block_size : (block + 1) * block_size]
    if not any(data):
        return None
    data = data.ljust(block_size, b"\0")
    return objects.put_chunk(encoder.encode(Kind.CHUNK, 0, objects.digester.chunk(data), data)).ref


def manifest_of(vm: str, parent: Manifest | None, disks: tuple[DiskRecord, ...]) -> Manifest:
    """The manifest of a point of *vm* after *parent*."""
    order = 1 if parent is None else parent.order + 1
    time = EPOCH + timedelta(seconds=order)
    is_full = any(disk.ingest == "full" for disk in disks)
    return Manifest(
        point=new_point_id(),
        vm=Vm(new_vm_id(), vm, encode_name(vm)) if parent is None else parent.vm,
        order=order,
        time=format_moment(time),
        name=point_name(time, ()),
        committed=format_moment(time),
        run=new_id(),
        program="tests",
        kind="full" if is_full else "incremental",
        reason=disks[0].reason if disks else "no disks",
        disks=disks,
    )
