"""Disks for tests of the parsers: in memory, or made by sfdisk and LVM."""

import json
import struct
import subprocess
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cbtfs.volumes.lvm.label import lvm_crc

MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Memory:
    """A disk in memory."""

    data: bytes | bytearray

    @property
    def size(self) -> int:
        return len(self.data)

    def read(self, offset: int, length: int) -> bytes:
        assert offset >= 0
        assert length >= 0
        return bytes(self.data[offset : offset + length])


@dataclass(frozen=True, slots=True)
class File:
    """A disk in a file or a device."""

    path: Path
    size: int

    def read(self, offset: int, length: int) -> bytes:
        with self.path.open("rb") as file:
            file.seek(offset)
            return file.read(length)


def file_of(path: Path) -> File:
    with path.open("rb") as file:
        return File(path, file.seek(0, 2))


def mbr(*entries: tuple[int, int, int]) -> bytes:
    """Return a sector with a table; entries are (type, first sector, sectors)."""
    packed = b"".join(struct.pack("<4xB3xII", *entry) for entry in entries)
    return (bytes(446) + packed).ljust(510, b"\0") + b"\x55\xaa"


def gpt_header(data: bytes, sector: int, own: int, table: int, entry_bytes: int = 128) -> bytes:
    """Return a valid header of the entry array *data*."""
    fields = (1, 0, 0, 0, bytes(16), table, len(data) // entry_bytes, entry_bytes, zlib.crc32(data))
    header = bytearray(struct.pack("<8sIIIIQ", b"EFI PART", 1 << 16, 92, 0, 0, own))
    header += struct.pack("<QQQ16sQIII", *fields[1:4], fields[4], *fields[5:])
    header[16:20] = zlib.crc32(header).to_bytes(4, "little")
    return bytes(header).ljust(sector, b"\0")


def gpt_disk(
    size: int, sector: int, entries: Iterable[tuple[int, int]], entry_bytes: int = 128
) -> bytearray:
    """Return a disk with both copies of a GPT; entries are (first sector, last sector)."""
    packed = (struct.pack("<16s16xQQ", b"k" * 16, *entry) for entry in entries)
    data = b"".join(entry.ljust(entry_bytes, b"\0") for entry in packed)
    data = data.ljust(-(-len(data) // sector) * sector or sector, b"\0")
    last = size // sector - 1
    disk = bytearray(size)
    disk[:512] = mbr((0xEE, 1, 0xFFFFFFFF))
    disk[2 * sector : 2 * sector + len(data)] = data
    disk[sector : 2 * sector] = gpt_header(data, sector, 1, 2, entry_bytes)
    table = last - len(data) // sector
    disk[table * sector : last * sector] = data
    disk[last * sector : (last + 1) * sector] = gpt_header(data, sector, last, table, entry_bytes)
    return disk


def sfdisk(path: Path, script: str) -> list[dict[str, Any]]:
    """Partition a file or device, and return what sfdisk reads from it."""
    subprocess.run(["sfdisk", "--quiet", "--no-reread", path], input=script, text=True, check=True)
    return sfdisk_json(path)


def sfdisk_json(path: Path) -> list[dict[str, Any]]:
    done = subprocess.run(["sfdisk", "--json", path], capture_output=True, text=True, check=True)
    partitions: list[dict[str, Any]] = json.loads(done.stdout)["partitiontable"]["partitions"]
    return partitions


@contextmanager
def loop_device(path: Path, sector: int = 512) -> Iterator[Path]:
    """A loop device on a file, with that sector size."""
    command: list[str | Path] = ["losetup", "--find", "--show", f"--sector-size={sector}", path]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    device = Path(done.stdout.strip())
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


def physical_volume(
    uuid: str, text: bytes, size: int, *, text_offset: int = 512, area_bytes: int = 64 << 10
) -> bytearray:
    """Return a disk with the label of a physical volume whose metadata area has *text*."""
    disk, area = bytearray(size), 4096
    label = bytearray(512)
    label[32:72] = struct.pack("<32sQ", uuid.encode(), size)
    label[72:136] = struct.pack("<QQQQQQQQ", MIB, 0, 0, 0, area, area_bytes, 0, 0)
    label[:32] = struct.pack("<8sQII8s", b"LABELONE", 1, 0, 32, b"LVM2 001")
    label[16:20] = lvm_crc(bytes(label[20:])).to_bytes(4, "little")
    disk[512:1024] = label
    header = bytearray(512)
    header[4:40] = struct.pack("<16sIQQ", b" LVM2 x[5A%r0N*>", 1, area, area_bytes)
    header[40:64] = struct.pack("<QQII", text_offset, len(text), lvm_crc(text), 0)
    header[:4] = lvm_crc(bytes(header[4:])).to_bytes(4, "little")
    disk[area : area + 512] = header
    ring = bytearray(area_bytes - 512)
    start = text_offset - 512
    ring[start : start + len(text)] = text[: len(ring) - start]
    ring[: max(len(text) - len(ring) + start, 0)] = text[len(ring) - start :]
    disk[area + 512 : area + area_bytes] = ring
    return disk


class LvmTools:
    """LVM's own commands on devices, without the kernel's device mapper."""

    def __init__(self, folder: Path, devices: Sequence[Path]) -> None:
        self.devices = devices
        accepted = ", ".join(f'"a|^{device}$|"' for device in devices)
        folder.mkdir()
        (folder / "lvm.conf").write_text(
            f"""
devices {{ filter = [ {accepted}, "r|.*|" ]
    use_devicesfile = 0
    external_device_info_source = "none"
    obtain_device_list_from_udev = 0 }}
global {{ activation = 0
    locking_dir = "{folder}/lock" }}
backup {{ backup = 0
    archive = 0 }}
"""
        )
        self._environment = {
            "PATH": "/usr/sbin:/usr/bin",
            "LVM_SYSTEM_DIR": str(folder),
            "LVM_SUPPRESS_FD_WARNINGS": "1",
        }

    def run(self, *command: str | Path) -> str:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env=self._environment,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def create(self, *options: str | Path) -> None:
        """Create a logical volume that is not active: `lvcreate`."""
        self.run("lvcreate", "--quiet", "-an", "-Zn", "-Wn", *options)

    def report(self, *fields: str) -> list[dict[str, str]]:
        """Return one document for each segment of the visible volumes: `lvs`."""
        output = ("--reportformat=json", "--units=b", "--nosuffix", f"--options={','.join(fields)}")
        rows: list[dict[str, str]] = json.loads(self.run("lvs", *output))["report"][0]["lv"]
        return rows


@contextmanager
def lvm_tools(folder: Path, sizes: Sequence[int]) -> Iterator[tuple[LvmTools, list[Path]]]:
    """LVM's commands on new disks of *sizes* bytes, and the files of the disks."""
    files = [folder / f"pv{number}.img" for number in range(len(sizes))]
    with ExitStack() as stack:
        for file, size in zip(files, sizes, strict=True):
            with file.open("wb") as image:
                image.truncate(size)
        devices = [stack.enter_context(loop_device(file)) for file in files]
        yield LvmTools(folder / "lvm", devices), files
