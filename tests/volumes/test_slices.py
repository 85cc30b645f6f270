"""Slices of points: names, order, bounds, and locations of bytes."""

import random
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbtfs.errors import ChunkMissing
from cbtfs.volumes.segment import Area, Segment, Slice
from cbtfs.volumes.slices import MAX_SLICES, NamedDisk, Omitted, find_slices
from tests.volumes.images import MIB, Memory, gpt_disk, physical_volume
from tests.volumes.test_lvm import SIZE, SMALL, UUIDS, group, volume


@dataclass(frozen=True)
class Unreadable:
    """A disk whose chunks are missing from byte *start* on, except its last 64 KiB."""

    start: int
    data: bytes = bytes(SIZE)

    @property
    def size(self) -> int:
        return len(self.data)

    def read(self, offset: int, length: int) -> bytes:
        if offset + length > self.start and offset < self.size - SMALL:
            raise ChunkMissing("a chunk is missing")
        return self.data[offset : offset + length]


def striped(length: int, areas: int, stripe_bytes: int) -> Slice:
    """Return a slice with a linear segment and a striped one."""
    first = Segment(0, 7, (Area(0, 3),), 7)
    columns = tuple(Area(1 + number, 5 * number) for number in range(areas))
    return Slice(("vg", "lv.raw"), (first, Segment(7, length, columns, stripe_bytes)))


@given(st.integers(1, 4), st.integers(1, 9), st.integers(1, 5), st.data())
def test_pieces_are_the_bytes_of_the_slice(
    areas: int, stripe_bytes: int, rows: int, data: st.DataObject
) -> None:
    """The oracle lays the bytes out one by one."""
    slice_ = striped(areas * stripe_bytes * rows, areas, stripe_bytes)
    expected = [(0, 3 + at) for at in range(7)]
    for at in range(areas * stripe_bytes * rows):
        stripe, rest = divmod(at, stripe_bytes)
        row, column = divmod(stripe, areas)
        expected.append((1 + column, 5 * column + row * stripe_bytes + rest))
    offset = data.draw(st.integers(0, slice_.size + 3))
    length = data.draw(st.integers(0, slice_.size + 3))

    locations = [
        (piece.disk, piece.offset + at)
        for piece in slice_.pieces(offset, length)
        for at in range(piece.length)
    ]

    assert locations == expected[offset : offset + length]


def test_a_partition_can_be_a_physical_volume() -> None:
    disk = gpt_disk(4 * MIB, 512, [(2048, 3 * 2048 - 1)])
    disk[MIB : 3 * MIB] = physical_volume(UUIDS[0], group(volume("a", first=2)), SIZE)

    slices = find_slices([NamedDisk(0, "root", Memory(disk))])

    assert [(slice_.path, slice_.size) for slice_ in slices.shown] == [
        (("root.p1.raw",), SIZE),
        (("vg", "a.raw"), SMALL),
    ]
    (piece,) = slices.shown[1].pieces(0, SIZE)
    assert piece == (0, MIB + MIB + 2 * SMALL, SMALL)


def test_a_group_named_like_a_partition_gets_another_directory() -> None:
    disk = gpt_disk(4 * MIB, 512, [(2048, 3 * 2048 - 1)])
    text = group(volume("a"), name='"root.p1.raw"')
    disk[MIB : 3 * MIB] = physical_volume(UUIDS[0], text, SIZE)

    slices = find_slices([NamedDisk(0, "root", Memory(disk))])

    assert [slice_.path for slice_ in slices.shown] == [
        ("root.p1.raw",),
        ("root.p1.raw~gggggggg", "a.raw"),
    ]


def test_the_number_of_slices_is_bounded() -> None:
    disk = Memory(gpt_disk(8 * MIB, 512, [(2048, 2049)] * 1000))

    slices = find_slices([NamedDisk(number, f"disk{number}", disk) for number in range(3)])

    assert len(slices.shown) == MAX_SLICES
    assert len(slices.omitted) == 3000 - MAX_SLICES


def test_a_disk_without_a_readable_table_is_an_error() -> None:
    """A part of the result could get other numbers than the whole."""
    disks = [NamedDisk(0, "good", Memory(bytes(MIB))), NamedDisk(1, "bad", Unreadable(0))]

    with pytest.raises(ChunkMissing):
        find_slices(disks)


def test_volumes_are_unknown_if_a_label_is_unreadable() -> None:
    """Partitions are known, and come first in any case."""
    text = group(volume("a"))
    disks = [NamedDisk(0, "pv", Memory(physical_volume(UUIDS[0], text, SIZE)))]
    table = gpt_disk(4 * MIB, 512, [(2048, 4095), (4096, 6143)])
    complete = find_slices([*disks, NamedDisk(1, "root", Memory(table))])
    damaged = find_slices([*disks, NamedDisk(1, "root", Unreadable(MIB, bytes(table)))])

    assert isinstance(damaged.failure, ChunkMissing)
    assert [slice_.path for slice_ in damaged.shown] == [("root.p1.raw",), ("root.p2.raw",)]
    assert complete.shown == (*damaged.shown, complete.shown[2])
    assert damaged.omitted == (
        Omitted("root.p1", "its LVM label or metadata cannot be read: a chunk is missing"),
    )


def test_noise_has_no_slices_outside_its_disk() -> None:
    source = random.Random(5)
    for _ in range(50):
        image = gpt_disk(2 * MIB, 512, [(2048, 3000), (3001, 4000)])
        for _ in range(source.randrange(1, 30)):
            image[source.randrange(4096)] = source.randrange(256)

        for slice_ in find_slices([NamedDisk(0, "disk", Memory(image))]).shown:
            assert all(
                piece.offset + piece.length <= len(image) for piece in slice_.pieces(0, slice_.size)
            )
