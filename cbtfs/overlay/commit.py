"""Commit an overlay: a restore point of the disks as the overlay shows them.

Only the extents that the images have are read; everything else is that of the point below, which is
the base of every commit of the overlay. The new point has no change ID: it belongs to a VM that
comes from no vCenter, because change tracking knows nothing of the writes to an overlay.
"""

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from urllib.parse import quote

from cbtfs.core.extent import Extent, clip
from cbtfs.core.manifest import DiskRecord, Manifest, Vm
from cbtfs.core.names import printable
from cbtfs.core.overlay import Overlay, OverlayDisk
from cbtfs.errors import DataCorrupt, SourceUnavailable, UsageError
from cbtfs.ingest.baseline import NamedBase
from cbtfs.ingest.inputs import DiskInput, OnDisk, PointOptions, VmInput, no_progress
from cbtfs.ingest.point import commit_point, take_point
from cbtfs.listing import vm_names
from cbtfs.mount.private import PrivateMount
from cbtfs.mount.scratch import scratch_directory
from cbtfs.overlay.base import disks_of, load_base
from cbtfs.overlay.composition import base_files, base_mount, compose
from cbtfs.overlay.create import require_repository
from cbtfs.overlay.exports import nbd_exports
from cbtfs.overlay.folder import OverlayFolder
from cbtfs.overlay.runtime import SOCKET, remove_traces
from cbtfs.qemu.daemon import storage_daemon
from cbtfs.qemu.images import written_extents
from cbtfs.reader import Reader
from cbtfs.source.content import ContentSource
from cbtfs.source.export import NbdSource
from cbtfs.source.listed import ChangeList, ListedSource
from cbtfs.store.repository import Repository, reading, writing

CRASH_CONSISTENT: Final = "crash-consistent"
_MAX_FILE_BYTES: Final = 64 << 20
"""Maximum size of a small file of the VM that the new point also gets."""


@dataclass(frozen=True, slots=True)
class CommitOptions:
    """Options of a commit."""

    vm: str | None = None
    """Name of the VM of the new point; by default that of the point, `+`, that of the overlay."""
    lock_wait: float = 0.0
    """Maximum wait for another writer in seconds."""
    on_disk: OnDisk = no_progress


def commit_overlay(repository: Path, folder: OverlayFolder, options: CommitOptions) -> Manifest:
    """Take a point of a stopped overlay and commit it; return its manifest.

    Raises:
        RepositoryLocked: the overlay is in use, or another writer holds the lock.
        UsageError: the VM comes from vSphere.
        ChunkMissing, DataCorrupt, SourceMismatch: see load_base().
    """
    overlay = folder.load()
    require_repository(overlay, repository)
    with folder.locked("commit"), ExitStack() as stack:
        remove_traces(folder)
        mount = base_mount(repository, None, stack)
        with reading(repository) as opened:
            # The new point is no worse than its base where the overlay wrote nothing.
            base = load_base(opened, overlay)
            vm = _vm_of(opened, overlay, options.vm)
        written = {image: written_extents(image) for image in folder.images(overlay)}
        mounted = mount()
        socket = stack.enter_context(_served(folder, overlay, base, mounted))
        disks = []
        for disk, record in zip(overlay.disks, disks_of(overlay, base), strict=True):
            source = _source(overlay, disk, written[folder.image(disk)], socket)
            stack.callback(source.close)
            disks.append(DiskInput(record.label, source, record.identity))
        with writing(repository, lock_wait=options.lock_wait) as opened:
            try:
                return _commit(opened, vm, overlay, base, disks, options.on_disk)
            except SourceUnavailable as exc:
                if mounted.has_failed_reads():
                    raise DataCorrupt(
                        f"point {overlay.point}, below overlay {overlay.name}, cannot be read: "
                        f"{exc}; run 'cbtfs check --read-data'"
                    ) from exc
                raise


def _vm_of(repository: Repository, overlay: Overlay, wanted: str | None) -> str:
    """Return the name of the VM of the new point; UsageError if it comes from vSphere."""
    name = f"{overlay.vm}+{overlay.name}" if wanted is None else wanted
    with repository.catalog.view() as view:
        named = vm_names(view).find(name)
        same = [vm for vm in view.vms().values() if vm.name == name]
    known = [*same, *([] if named is None else [named.vm])]
    if any(map(_is_of_vsphere, known)):
        raise UsageError(
            f"VM {printable(name)} comes from vSphere, whose change tracking knows nothing of the "
            "writes to an overlay: name another VM with --as"
        )
    return name if named is None or wanted is None else named.vm.name


def _is_of_vsphere(vm: Vm) -> bool:
    return vm.vcenter is not None or vm.instance_uuid is not None


@contextmanager
def _served(
    folder: OverlayFolder, overlay: Overlay, base: Manifest, mounted: PrivateMount
) -> Iterator[Path]:
    """Serve the disks read-only; return the path of the socket."""
    with scratch_directory("cbtfs-commit-") as runtime:
        socket = runtime / SOCKET
        bases = base_files(overlay, base, mounted)
        options = compose(folder, overlay, bases, runtime, is_read_only=True)
        options += nbd_exports(overlay.disks, socket, is_writable=False)
        with storage_daemon(options, runtime):
            yield socket


def _source(
    overlay: Overlay, disk: OverlayDisk, written: list[Extent], socket: Path
) -> ListedSource:
    """Return a disk of the overlay, with the extents that its image has as the change list."""
    uri = f"nbd+unix:///{quote(disk.label, safe='')}?socket={quote(str(socket))}"
    source = NbdSource(uri)
    start = disk.offset or 0
    listed = tuple((e.start - start, e.length) for e in clip(written, start, start + source.size))
    return ListedSource(source, ChangeList(listed, overlay.point), overlay.point)


def _commit(
    repository: Repository,
    vm: str,
    overlay: Overlay,
    base: Manifest,
    disks: list[DiskInput],
    on_disk: OnDisk,
) -> Manifest:
    reader = Reader(repository, cache_bytes=0)
    files = [_file(reader, record) for record in base.of_kind("file") if _is_small(record)]
    named = NamedBase(overlay.point, overlay.point, is_content=True)
    options = PointOptions(
        datetime.now(UTC).replace(microsecond=0), on_disk=on_disk, base=named, time_source="clock"
    )
    facts = {"name": overlay.name, "point": overlay.point, "consistency": CRASH_CONSISTENT}
    with closing(repository.object_writer()) as objects:
        taken = take_point(repository, objects, VmInput(vm), [*disks, *files], options)
        return commit_point(repository, objects, taken, {"overlay": facts})


def _is_small(record: DiskRecord) -> bool:
    return record.size <= _MAX_FILE_BYTES


def _file(reader: Reader, record: DiskRecord) -> DiskInput:
    content = ContentSource(bytes(reader.disk(record).read(0, record.size)))
    return DiskInput(record.label, content, record.identity, kind="file")
