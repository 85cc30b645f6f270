"""All implementations of DiskSource, each with a function that creates one with given bytes."""

import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Final

from cbtfs.core.ids import PointId
from cbtfs.core.reasons import FullReason, Reason
from cbtfs.source.base import DiskSource
from cbtfs.source.content import ContentSource
from cbtfs.source.export import NbdSource
from cbtfs.source.image import ImageSource
from cbtfs.source.listed import ChangeList, ListedSource
from cbtfs.source.transport.base import DiskReader, TransportDisk
from cbtfs.source.transport.nbd import NbdTransport
from cbtfs.source.transport.nfc_buffers import NfcBuffers, NfcReader
from cbtfs.source.vsphere.snapshots.snapshot_disk import SnapshotDisk, Watch, never_changed
from cbtfs.source.wrappers import ChangingSource, CheckedSource
from tests.source.fake import FakeDisk
from tests.source.nbd.storage_daemon import qemu_nbd

ANOTHER: Final = PointId("ab" * 16)
"""A point that is not the base of any list."""

SECTOR: Final = 512

Factory = Callable[[Path, bytes], AbstractContextManager[DiskSource]]


def write_sparse(path: Path, content: bytes) -> Path:
    """Write *content* to a file with holes for pages of 4 KiB that are all zeros."""
    with path.open("wb") as file:
        file.truncate(len(content))
        for at in range(0, len(content), 4096):
            if any(content[at : at + 4096]):
                file.seek(at)
                file.write(content[at : at + 4096])
    return path


def image(folder: Path, content: bytes) -> AbstractContextManager[DiskSource]:
    return closing(ImageSource(write_sparse(folder / "image.raw", content)))


@contextmanager
def loop_device(folder: Path, content: bytes) -> Iterator[DiskSource]:
    path = write_sparse(folder / "loop.raw", content)
    made = subprocess.run(
        ["losetup", "--find", "--show", "--read-only", path],
        check=True,
        capture_output=True,
        text=True,
    )
    device = made.stdout.strip()
    try:
        with closing(ImageSource(Path(device))) as source:
            yield source
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


@contextmanager
def nbd(folder: Path, content: bytes) -> Iterator[DiskSource]:
    path = write_sparse(folder / "nbd.raw", content)
    with qemu_nbd(path, "-f", "raw", "--shared=8") as uri, closing(NbdSource(uri)) as source:
        yield source


@contextmanager
def snapshot_disk(folder: Path, content: bytes) -> Iterator[DiskSource]:
    """A snapshot disk that is read from an NBD server through the NFC buffers of a host."""
    path = write_sparse(folder / "snapshot.raw", content)
    with qemu_nbd(path, "-f", "raw", "--shared=8") as uri:

        def open_reader() -> DiskReader:
            return NfcReader(NbdTransport(uri).open(transport_disk(len(content))), NfcBuffers())

        with closing(
            SnapshotDisk(
                len(content),
                open_reader,
                never_changed(Reason(FullReason.OTHER, "it is not tracked")),
                lambda: None,
                Watch(threading.Event(), None),
            )
        ) as source:
            yield source


def transport_disk(size: int) -> TransportDisk:
    """Return the data of a snapshot disk of *size* bytes that a transport needs."""
    return TransportDisk(
        label="disk",
        vm="vm-1",
        snapshot="snapshot-1",
        key=2000,
        size=size,
        path="[ds] vm/vm.vmdk",
        datastore_type="VMFS",
        datacenter="DC0",
        is_flat=True,
        is_alone=True,
    )


def listed(folder: Path, content: bytes) -> AbstractContextManager[DiskSource]:
    source = ImageSource(write_sparse(folder / "listed.raw", content))
    return closing(ListedSource(source, ChangeList((), since="another"), ANOTHER))


def content(folder: Path, content: bytes) -> AbstractContextManager[DiskSource]:
    return closing(ContentSource(content))


def checked(folder: Path, content: bytes) -> AbstractContextManager[DiskSource]:
    return closing(CheckedSource(ImageSource(write_sparse(folder / "checked.raw", content))))


def changing(folder: Path, content: bytes) -> AbstractContextManager[DiskSource]:
    return closing(ChangingSource(ImageSource(write_sparse(folder / "changing.raw", content))))


def fake(folder: Path, content: bytes) -> AbstractContextManager[DiskSource]:
    disk = FakeDisk(len(content))
    disk.write(0, content)
    return closing(disk.take_snapshot())


IMPLEMENTATIONS: Final[dict[str, Factory]] = {
    "image": image,
    "loop device": loop_device,
    "nbd": nbd,
    "snapshot disk": snapshot_disk,
    "listed": listed,
    "content": content,
    "checked": checked,
    "changing": changing,
    "fake": fake,
}
