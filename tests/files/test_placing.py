"""`/etc/fstab` compared with findmnt, and the places of volumes."""

import json
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbtfs.files.fstab import Mount, parse_fstab
from cbtfs.files.placing import Identity, Place, identities, place
from cbtfs.files.probe.values import Kind
from cbtfs.volumes.slices import NamedDisk, find_slices
from tests.files.jbd2.busy import run
from tests.volumes.images import MIB, Memory, file_of, loop_device, sfdisk

DEBIAN = """# /etc/fstab
UUID=aaaa-root / ext4 errors=remount-ro 0 1
UUID=AAAA-BOOT /boot ext2 defaults 0 2
PARTUUID="11111111-01" /boot/efi vfat umask=0077 0 1
/dev/mapper/vg--0-my--data /srv/my\\040data xfs defaults 0 2
LABEL=swap none swap sw 0 0
tmpfs /tmp tmpfs defaults 0 0
server:/export /net nfs defaults 0 0
/srv/my\\040data/x /bound none bind 0 0
/dev/sr0 /media/cdrom0 udf,iso9660 user,noauto 0 0
"""
ROOT = Identity("root.p2", Kind.EXT4, uuid="aaaa-root", disk=0, partition=2)
BOOT = Identity("root.p1", Kind.EXT2, uuid="aaaa-boot", disk=0, partition=1)
EFI = Identity("root.p3", Kind.FAT32, partition_uuid="11111111-01", disk=0, partition=3)
DATA = Identity("vg-0/my-data", Kind.XFS)
OTHER = Identity("disk1", Kind.XFS, label="other one", disk=1)


def test_the_file_systems_of_an_fstab_have_their_paths() -> None:
    result = place([BOOT, ROOT, EFI, DATA, OTHER], {"root.p2": DEBIAN})

    assert result.places == {
        "/": Place("root.p2"),
        "/boot": Place("root.p1"),
        "/boot/efi": Place("root.p3"),
        "/srv/my data": Place("vg-0/my-data"),
    }
    assert result.unplaced == ("disk1",)
    assert result.notes == ["/media/cdrom0: no volume of this point is /dev/sr0"]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("/dev/vg-0/my-data", "vg-0/my-data"),
        ("/dev/mapper/vg--0-my--data", "vg-0/my-data"),
        ("/dev/sda1", "root.p1"),
        ("/dev/vda3", "root.p3"),
        ("/dev/sdb", "disk1"),
        ("/dev/nvme0n1p2", "root.p2"),
        ("/dev/nvme0n2", "disk1"),
        ("/dev/nvme1n1", "disk1"),
        ("/dev/disk/by-uuid/aaaa-BOOT", "root.p1"),
        ("/dev//disk/by-label/other\\x20one", "disk1"),
        ("/dev/disk/by-partuuid/11111111-01", "root.p3"),
        ('LABEL="other\\040one"', "disk1"),
        ("uuid=aaaa-boot", "root.p1"),
    ],
)
def test_a_volume_is_found_by_any_name_of_linux(source: str, expected: str) -> None:
    text = f"/dev/sda2 / ext4\n{source} /mnt auto\n"

    places = place([BOOT, ROOT, EFI, DATA, OTHER], {"root.p2": text}).places
    assert places["/mnt"] == Place(expected)


@pytest.mark.parametrize("source", ["/dev/sdc", "/dev/sda9", "UUID=", "/dev/mapper/vg-data", "X=1"])
def test_a_volume_that_is_missing_is_a_note(source: str) -> None:
    result = place([ROOT, BOOT], {"root.p2": f"{source} /mnt xfs\n"})

    assert result.places == {"/": Place("root.p2")}
    assert result.notes == [f"/mnt: no volume of this point is {source}"]


def test_the_root_is_the_volume_whose_fstab_names_it() -> None:
    old = Identity("old.p1", Kind.EXT4, uuid="bbbb", disk=1, partition=1)
    fstabs = {"old.p1": "UUID=gone / ext4\nUUID=aaaa-root / ext4\n", "root.p2": DEBIAN}
    result = place([old, ROOT], fstabs)

    assert result.places["/"] == Place("root.p2")
    assert result.notes[0] == "the root is on root.p2; other volumes with /etc/fstab: old.p1"
    assert result.unplaced == ("old.p1",)
    assert place([old, ROOT], {"old.p1": fstabs["old.p1"]}).places == {"/": Place("old.p1")}


def test_a_clone_of_a_volume_is_a_note() -> None:
    clone = Identity("clone.p2", Kind.EXT4, uuid="aaaa-root", disk=1, partition=2)
    result = place([ROOT, clone], {"root.p2": DEBIAN})

    assert result.places["/"] == Place("root.p2")
    assert "/: UUID=aaaa-root names several volumes: root.p2, clone.p2" in result.notes


def test_subvolumes_of_btrfs_are_kept() -> None:
    volume = Identity("root.p1", Kind.BTRFS, uuid="u")
    text = "UUID=u / btrfs subvol=@ 0 0\nUUID=u /home btrfs compress=zstd,subvol=@home 0 0\n"

    assert place([volume], {"root.p1": text}).places == {
        "/": Place("root.p1", "@"),
        "/home": Place("root.p1", "@home"),
    }


def test_volumes_of_windows_have_letters() -> None:
    efi = Identity("w.p1", Kind.FAT32, partition_type="c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
    data, system = Identity("w.p2", Kind.NTFS), Identity("w.p3", Kind.NTFS)
    linux = Identity("w.p4", Kind.EXT4)
    result = place([efi, data, system, linux], {}, windows=["w.p3"])

    assert result.places == {"/C": Place("w.p3"), "/D": Place("w.p2")}
    assert result.unplaced == ("w.p1", "w.p4")


def test_volumes_without_an_fstab_are_the_root_or_have_their_names() -> None:
    swap = Identity("root.p9", Kind.SWAP)

    assert place([swap, DATA], {}).places == {"/": Place("vg-0/my-data")}
    assert place([BOOT, DATA], {}).places == {
        "/root.p1": Place("root.p1"),
        "/vg-0/my-data": Place("vg-0/my-data"),
    }
    assert place([swap], {}).places == {}


FIELDS = st.text(string.ascii_letters + "/=\\01247-,\"'#. ", min_size=1, max_size=12)
LINES = st.lists(st.lists(FIELDS, max_size=6).map(" ".join), max_size=8).map("\n".join)


@given(LINES)
def test_any_text_is_parsed(text: str) -> None:
    for mount in parse_fstab(text):
        assert mount.path.startswith("/")
        assert ".." not in mount.path.split("/")


def test_paths_stay_in_the_guest_and_wrong_lines_are_ignored() -> None:
    text = "/dev/sda1 /a/../../b//c/ ext4\r\n/dev/sda1\n#x /y ext4\nUUID=1 none swap\n \n"

    assert list(parse_fstab(text)) == [Mount("/dev/sda1", "/b/c", "ext4")]
    assert len(list(parse_fstab("/dev/sda1 /a ext4\n" * 10000))) == 4096


def test_sources_and_paths_are_those_of_findmnt(tmp_path: Path) -> None:
    table = tmp_path / "fstab"
    table.write_text(DEBIAN + "LABEL='a\\040b' /q\\011t\\134 ext4 ro 0 0\n")
    output = run("findmnt", "--tab-file", table, "--json", "-o", "source,target")
    rows = [(row["source"], row["target"]) for row in json.loads(output)["filesystems"]]
    ours = [(mount.source, mount.path) for mount in parse_fstab(table.read_text())]

    assert len(ours) == 6
    # findmnt keeps the quotes of a tag; mount removes them.
    assert set(ours) <= {(source.replace('"', "").replace("'", ""), path) for source, path in rows}


@pytest.mark.parametrize("label", ["gpt", "dos"])
def test_partitions_have_the_names_of_the_kernel(label: str, tmp_path: Path) -> None:
    image = tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(16 * MIB)
    name = ", name=päth" if label == "gpt" else ""
    sfdisk(image, f"label: {label}\nsize=4MiB{name}\nsize=4MiB\n")
    with loop_device(image) as device:
        parts = json.loads(run("sfdisk", "--json", device))["partitiontable"]
        run("mke2fs", "-q", "-L", "inside", "-E", f"offset={MIB}", "-F", image, "4M")
        expected = [
            run("blkid", "-p", "-O", MIB, "-S", 4 * MIB, "-o", "value", "-s", "UUID", device)
        ]
    disk = NamedDisk(3, "root", file_of(image))
    data = image.read_bytes()
    volumes = [
        (slice_.path[0].removesuffix(".raw"), Memory(data[s.areas[0].offset :][: s.length]))
        for slice_ in find_slices([disk]).shown
        for s in slice_.segments
    ]
    first, second = identities(volumes, [disk])

    assert (first.name, first.disk, first.partition) == ("root.p1", 3, 1)
    assert (first.kind, first.label, first.uuid) == (Kind.EXT2, "inside", expected[0].strip())
    if label == "gpt":
        uuids = [part["uuid"].lower() for part in parts["partitions"]]
        assert first.partition_label == "päth"
        assert first.partition_type == parts["partitions"][0]["type"].lower()
    else:
        uuids = [f"{int(parts['id'], 16):08x}-0{number}" for number in (1, 2)]
    assert [first.partition_uuid, second.partition_uuid] == uuids
    assert identities([("root", Memory(data))], [disk])[0].disk == 3
    assert identities([("vg/lv", Memory(b""))], [disk])[0] == Identity("vg/lv", Kind.UNKNOWN)
