"""Progress records of runs: encoding is reversible, and a damaged record is refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbtfs.core.extent import Extent
from cbtfs.core.ids import Digest, PointId
from cbtfs.core.manifest import Counts
from cbtfs.core.progress import (
    Checkpoint,
    DiskProgress,
    HeldDisk,
    HeldSnapshot,
    RunProgress,
    decode_progress,
    digest_of_extents,
    encode_progress,
)
from cbtfs.core.reasons import FullReason
from cbtfs.core.sealed import seal

ID = "ab" * 16
NUMBERS = st.integers(0, 1 << 60)
TEXTS = st.text(max_size=20)
CHECKPOINTS = st.builds(
    Checkpoint,
    NUMBERS,
    st.binary(min_size=32, max_size=32).map(Digest),
    NUMBERS,
    st.builds(Counts, NUMBERS, NUMBERS, NUMBERS, NUMBERS, NUMBERS),
)
DISKS = st.builds(
    DiskProgress,
    st.sampled_from(["full", "incremental"]),
    TEXTS,
    NUMBERS,
    TEXTS,
    st.lists(CHECKPOINTS, max_size=3).map(tuple),
    st.none() | st.sampled_from(FullReason),
)
HELD = st.builds(
    HeldDisk,
    NUMBERS,
    TEXTS,
    TEXTS,
    TEXTS,
    NUMBERS,
    st.none() | TEXTS,
    st.none() | TEXTS,
    st.none() | st.just(PointId(ID)),
)
SNAPSHOTS = st.builds(
    HeldSnapshot,
    TEXTS,
    TEXTS,
    st.just("2026-11-25T01:02:03Z"),
    st.booleans(),
    TEXTS,
    st.none() | TEXTS,
    st.lists(TEXTS, max_size=2).map(tuple),
    st.lists(HELD, max_size=3).map(tuple),
    st.none() | st.sampled_from(FullReason),
)
PROGRESS = st.builds(RunProgress, st.just(ID), SNAPSHOTS, st.dictionaries(TEXTS, DISKS, max_size=3))


@given(PROGRESS)
def test_progress_round_trips(progress: RunProgress) -> None:
    assert decode_progress(encode_progress(progress)) == progress


@given(PROGRESS, st.data())
def test_a_member_that_is_gone_or_of_another_type_is_refused(
    progress: RunProgress, data: st.DataObject
) -> None:
    document = json.loads(encode_progress(progress))
    del document["sha256"]
    owner = data.draw(st.sampled_from([document, document["snapshot"]]))
    name = data.draw(st.sampled_from(sorted(set(owner) - {"untracked", "untracked_code"})))
    if data.draw(st.booleans()):
        del owner[name]
    else:
        owner[name] = 1.5

    with pytest.raises(ValueError, match="member"):
        decode_progress(seal(document))


@given(PROGRESS, st.data())
def test_a_flipped_bit_is_refused(progress: RunProgress, data: st.DataObject) -> None:
    content = bytearray(encode_progress(progress))
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))

    with pytest.raises(ValueError, match=r".") as refused:
        decode_progress(bytes(content))
    assert str(refused.value)


def test_extents_differ_by_position_and_order() -> None:
    lists = [[], [Extent(0, 12)], [Extent(0, 1)], [Extent(0, 1), Extent(2, 1)]]
    lists += [[Extent(2, 1), Extent(0, 1)], [Extent(12, 1)]]

    assert len({digest_of_extents(extents) for extents in lists}) == len(lists)


def test_leaves_are_those_of_the_newest_checkpoint_of_each_disk() -> None:
    def disk(*leaves: int) -> DiskProgress:
        checkpoints = tuple(
            Checkpoint(leaf, Digest(bytes(32)), 0, Counts(0, 0, 0, 0, 0)) for leaf in leaves
        )
        return DiskProgress("full", "", 4096, "", checkpoints)

    held = HeldSnapshot("", "", "2026-11-25T01:02:03Z", False, "", None, (), ())
    disks = {
        "a": disk(3, 5),
        "b": disk(),
        "c": disk(7),
        "d": disk(1).with_checkpoint(disk(9).checkpoints[0], 1),
    }

    assert RunProgress(ID, held, disks).leaves == 5 + 7 + 9
    assert RunProgress(ID, held).leaves == 0
    assert [
        checkpoint.leaf
        for checkpoint in disk(1, 2).with_checkpoint(disk(3).checkpoints[0], 2).checkpoints
    ] == [2, 3]
