"""The map that seeks use names exactly the blocks that hold data, or fails."""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cbtfs.core.blockmap import FANOUT
from cbtfs.core.ids import Digest, ObjectId
from cbtfs.core.manifest import DiskRecord
from cbtfs.errors import ChunkMissing, DataCorrupt
from cbtfs.reader import Disk, Reader
from cbtfs.store.catalog.records import CatalogDamaged
from cbtfs.store.catalog.view import Node, View
from cbtfs.store.repository import Repository, writing
from tests.make_points import BLOCK, new_repository
from tests.patterned_disks import PatternedDisk, object_writer, put_disk, random_disk

LEAF = FANOUT * BLOCK
FULL = (1 << FANOUT) - 1


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Repository]:
    with writing(new_repository(tmp_path_factory.mktemp("masks") / "repository")) as opened:
        yield opened


def stored(repository: Repository, disk: PatternedDisk) -> DiskRecord:
    objects = object_writer(repository)
    try:
        record = put_disk(objects, "disk", disk)
        objects.flush()
        return record
    finally:
        objects.close()


def blocks_of(masks: tuple[int, list[int]]) -> set[int]:
    first, values = masks
    return {
        (first + leaf) * FANOUT + slot
        for leaf, mask in enumerate(values)
        for slot in range(FANOUT)
        if mask >> slot & 1
    }


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    disk=st.builds(
        random_disk, st.integers(0, 1 << 32), st.integers(1, 3 * FANOUT**2), st.just(BLOCK)
    ),
    share=st.floats(0, 0.999),
)
def test_the_map_names_the_blocks_with_data(
    repository: Repository, disk: PatternedDisk, share: float
) -> None:
    reader = Reader(repository).disk(stored(repository, disk))
    offset = int(disk.size * share)
    start = leaf = offset // LEAF
    with_data: set[int] = set()

    while leaf * LEAF < disk.size:
        first, masks, end = reader.data_masks(max(offset, leaf * LEAF))
        assert first == leaf
        assert first + len(masks) <= end
        assert (first + len(masks) - 1) // FANOUT == first // FANOUT
        with_data |= blocks_of((first, list(masks)))
        leaf = end

    assert leaf == -(-disk.size // LEAF)
    assert with_data == {block for block in disk.blocks() if block >= start * FANOUT}


def test_a_wide_hole_costs_one_call(repository: Repository) -> None:
    last = FANOUT**4 - 1
    disk = PatternedDisk((last + 1) * BLOCK, [(0, 1), (last, 1)], BLOCK)
    reader = Reader(repository).disk(stored(repository, disk))

    first, masks, end = reader.data_masks(0)

    assert (first, list(masks)) == (0, [1] + [0] * (FANOUT - 1))
    assert end == last // FANOUT


class Damage:
    """Makes the catalog fail for some nodes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.digests: set[Digest] = set()
        self.failure: type[Exception] = CatalogDamaged
        real = View.node

        def node(view: View, number: ObjectId, level: int, digest: Digest, *like: Node) -> Node:
            if digest in self.digests:
                raise self.failure("injected")
            return real(view, number, level, digest, *like)

        monkeypatch.setattr(View, "node", node)


@pytest.fixture
def damage(monkeypatch: pytest.MonkeyPatch) -> Damage:
    return Damage(monkeypatch)


@pytest.fixture
def disk(repository: Repository) -> Disk:
    """Return a disk whose even leaves hold data in the first of 64 groups of leaves."""
    runs = [(leaf * FANOUT, FANOUT) for leaf in range(0, FANOUT, 2)] + [(FANOUT**2 * 3, 5)]
    disk = PatternedDisk(FANOUT**3 * BLOCK, runs, BLOCK)
    return Reader(repository).disk(stored(repository, disk))


def leaf_digest(disk: Disk, index: int) -> Digest:
    digests = {number: ref.digest for number, ref in disk.tree().leaves()}
    return digests[index]


@pytest.mark.parametrize("failure", [CatalogDamaged, ChunkMissing])
def test_a_damaged_leaf_fails_and_the_leaves_around_it_are_mapped(
    disk: Disk, damage: Damage, failure: type[Exception]
) -> None:
    digest = leaf_digest(disk, 6)
    # Leaves repeat only after 61 patterns, so no other leaf of the group has the digest.
    disk.reader.drop_locations()
    damage.digests, damage.failure = {digest}, failure

    first, masks, end = disk.data_masks(0)

    assert (first, len(masks), end) == (0, 6, 6)
    assert disk.data_masks(5 * LEAF) == (5, masks[5:6], 6)
    with pytest.raises((ChunkMissing, DataCorrupt)):
        disk.data_masks(6 * LEAF)
    first, masks, _ = disk.data_masks(7 * LEAF)
    assert (first, list(masks[:3])) == (7, [0, FULL, 0])


def test_a_damaged_node_above_the_leaves_fails(
    repository: Repository, disk: Disk, damage: Damage
) -> None:
    root = disk.tree().root
    assert root is not None
    (*_, later) = [ref for ref in Reader(repository).children(root, 3) if ref is not None]
    disk.reader.drop_locations()
    damage.digests = {later.digest}

    first, masks, end = disk.data_masks(0)

    assert (first, end) == (0, FANOUT - 1)  # the last leaf of the group is zeros
    assert len(masks) == FANOUT - 1
    assert list(disk.data_masks(end * LEAF)[1]) == [0]
    with pytest.raises(DataCorrupt):
        disk.data_masks(3 * FANOUT * LEAF)


def test_a_lost_root_fails(repository: Repository, disk: Disk, damage: Damage) -> None:
    disk.reader.drop_locations()
    damage.digests = {disk.record.root}

    with pytest.raises(DataCorrupt):
        disk.data_masks(0)
