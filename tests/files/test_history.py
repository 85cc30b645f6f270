"""The versions of a file, compared with opening it at every point."""

import random
from collections.abc import Collection, Iterator, Sequence
from itertools import groupby, pairwise

from hypothesis import given
from hypothesis import strategies as st

from cbtfs.core.blockmap import FANOUT, Builder, Shape, Tree, diff
from cbtfs.core.extent import Extent
from cbtfs.files.history import Part, Sighting, Version, content_digest, versions

UNIT = 8
"""Bytes of a block of the map; blocks of the file system are half as large."""
LEAVES = 2
SIZE = LEAVES * FANOUT * UNIT
"""The volume: byte 0 is the number of the inode or 0, inodes have 12 bytes from byte 16 on."""
INODES = 4
DATA = 128


class Volume:
    """The points of a volume with a file system of one file."""

    def __init__(self, images: list[bytes], hidden: Collection[int] = ()) -> None:
        """*hidden*: numbers of points whose engine does not know where the content is."""
        self.images = images
        self._hidden = hidden
        self.looks = 0
        self._nodes: list[Sequence[int | None]] = []
        self._numbers: dict[Sequence[int | None], int] = {}
        self._blocks: dict[bytes, int] = {}
        self._trees = [self._tree(image) for image in images]

    def __len__(self) -> int:
        return len(self.images)

    def _tree(self, image: bytes) -> Tree[int]:
        builder: Builder[int] = Builder(Shape(SIZE, UNIT), None, self._make)
        for leaf in range(LEAVES):
            starts = range(leaf * FANOUT * UNIT, (leaf + 1) * FANOUT * UNIT, UNIT)
            blocks = [image[start : start + UNIT] for start in starts]
            numbers = [self._blocks.setdefault(b, len(self._blocks)) for b in blocks]
            builder.put_leaf(leaf, numbers)
        return Tree(builder.finish(), SIZE // UNIT, lambda node, level: self._nodes[node])

    def _make(self, level: int, children: Sequence[int | None]) -> int:
        """Return the number of a node; equal nodes have the same number, as in a repository."""
        key = (level, *children)
        if key not in self._numbers:
            self._numbers[key] = len(self._nodes)
            self._nodes.append(tuple(children))
        return self._numbers[key]

    def look(self, number: int) -> Sighting:
        self.looks += 1
        sighting = see(self.images[number])
        if number not in self._hidden or sighting.state is None:
            return sighting
        whole = (Extent(0, SIZE),)
        data = content(self.images[number], sighting)
        cut = number % len(data)
        return Sighting(
            sighting.state, whole, digest=content_digest([(0, data[:cut]), (cut, data[cut:])])
        )

    def differing(self, left: int, right: int, extent: Extent) -> Iterator[Extent]:
        for block in diff(self._trees[left], self._trees[right]):
            start, end = max(block * UNIT, extent.start), min((block + 1) * UNIT, extent.end)
            if start < end:
                yield Extent(start, end - start)

    def read(self, number: int, extent: Extent) -> bytes:
        return self.images[number][extent.start : extent.end]


def see(image: bytes) -> Sighting:
    """Return the file of an image: two parts of up to 15 bytes, and a time."""
    directory = Extent(0, 1)
    inode = image[0] % (INODES + 1)
    if not inode:
        return Sighting(None, (directory,))
    at = 16 + (inode - 1) * 12
    time, *numbers = image[at : at + 7]
    first, length, second, size, start, hole = numbers
    parts = [
        Part(0, length % 15 + 1, DATA + first),
        Part(20 + hole % 9, size % 15 + 1, DATA + second),
    ]
    return Sighting((inode, time, start % 2), (directory, Extent(at, 7)), tuple(parts))


def content(image: bytes, sighting: Sighting) -> bytes:
    data = bytearray(50)
    for part in sighting.parts:
        data[part.start : part.start + part.length] = image[part.offset :][: part.length]
    return bytes(data)


def by_walk(images: list[bytes]) -> list[tuple[int, int]]:
    """Return first and last point of each version."""
    keys = [(see(image).state, content(image, see(image))) for image in images]
    found, at = [], 0
    for _, group in groupby(keys):
        count = len(list(group))
        found.append((at, at + count - 1))
        at += count
    return found


def history(seed: int, count: int) -> list[bytes]:
    """Return images of a volume: changes of the file, of its neighbours, and of nothing."""
    source = random.Random(seed)
    image = bytearray(source.choices(range(4), k=SIZE))
    images = []
    for _ in range(count):
        kind = source.randrange(8)
        if kind == 0:
            image[0] = source.randrange(INODES + 1)
        elif kind == 1:
            image[16 + source.randrange(48)] = source.randrange(250)
        elif kind == 2:
            image[DATA + source.randrange(60)] = source.randrange(3)
        elif kind == 3:
            image[source.randrange(1, 16)] = source.randrange(250)
        elif kind == 4:
            _move(image)
        images.append(bytes(image))
    return images


def _move(image: bytearray) -> None:
    """Move the first part of the file: its extents change, its content does not."""
    sighting = see(bytes(image))
    if sighting.parts:
        part = sighting.parts[0]
        image[DATA + 250 : DATA + 250 + part.length] = image[
            part.offset : part.offset + part.length
        ]
        inode = image[0] % (INODES + 1)
        image[16 + (inode - 1) * 12 + 1] = 250


@given(st.integers(0, 10**9), st.integers(0, 30))
def test_the_versions_are_those_of_a_walk_over_all_points(seed: int, count: int) -> None:
    volume = Volume(history(seed, count))
    result = list(versions(volume))

    assert [(version.first, version.last) for version in result] == by_walk(volume.images)
    for version in result:
        states = {see(image).state for image in volume.images[version.first : version.last + 1]}
        assert states == {version.sighting.state}


@given(st.integers(0, 10**9), st.integers(0, 30), st.sets(st.integers(0, 30)))
def test_a_digest_in_place_of_known_places_changes_nothing(
    seed: int, count: int, hidden: set[int]
) -> None:
    volume = Volume(history(seed, count), hidden)

    assert [(v.first, v.last) for v in versions(volume)] == by_walk(volume.images)


@given(st.integers(0, 10**9))
def test_only_points_whose_structure_changed_are_looked_at(seed: int) -> None:
    volume = Volume(history(seed, 40))
    list(versions(volume))
    changed = sum(
        any(a[e.start : e.end] != b[e.start : e.end] for e in see(a).structure)
        for a, b in pairwise(volume.images)
    )

    assert volume.looks == changed + 1


def test_no_points_have_no_versions_and_equal_points_have_one() -> None:
    image = history(1, 1)[0]

    assert list(versions(Volume([]))) == []
    assert list(versions(Volume([image] * 300))) == [Version(0, 299, see(image))]


def test_a_part_that_becomes_a_hole_of_zeros_is_the_same_content() -> None:
    image = bytearray(SIZE)
    image[0] = 1
    points = Volume([bytes(image), bytes(image)])
    with_zeros = Sighting("state", (Extent(0, 1),), (Part(0, 100, 200), Part(100, 8, 300)))
    with_hole = Sighting("state", (Extent(0, 1),), (Part(50, 50, 250),))

    class Moved(Volume):
        def look(self, number: int) -> Sighting:
            return (with_zeros, with_hole)[number]

    other = bytearray(image)
    other[0] = 2
    assert len(list(versions(Moved([bytes(image), bytes(other)])))) == 1
    other[260] = 1
    assert len(list(versions(Moved([bytes(image), bytes(other)])))) == 2
    assert len(points) == 2
