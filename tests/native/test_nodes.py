"""Nodes of the catalog that compiled code decodes."""

import random
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cbtfs.core.blockmap import FANOUT
from cbtfs.core.ids import DIGEST_BYTES, ObjectId
from cbtfs.native import node_children, node_entries
from cbtfs.store.catalog.records import OBJECTS, close_value, encode_children, integer_key

SEED = zlib.crc32(OBJECTS)
RNG = random.Random(5)
ENTRIES = {number: RNG.randbytes(52) for number in range(1, 9)}


def item(number: int, payload: bytes | None = None) -> tuple[bytes, bytes]:
    key = integer_key(number)
    return key, close_value(OBJECTS, key, ENTRIES[number] if payload is None else payload)


@settings(max_examples=50, deadline=None)
@given(st.randoms(use_true_random=False), st.sampled_from([0, 0.5, 1]))
def test_entries_and_content_follow_the_children(rng: random.Random, share: float) -> None:
    ids = rng.choices([0, *ENTRIES], k=FANOUT)
    children = node_children(encode_children([ObjectId(number) for number in ids]))
    known = tuple(ENTRIES[n] if n and rng.random() < share else None for n in ids)
    items = [item(n) for n, entry in zip(ids, known, strict=True) if n and entry is None]
    entries, content = node_entries(children, known, items, SEED)

    assert children == tuple(ids)
    assert entries == tuple(ENTRIES.get(number) for number in ids)
    digests = [ENTRIES[number][-DIGEST_BYTES:] if number else bytes(DIGEST_BYTES) for number in ids]
    assert content == b"".join(digests)


CHILDREN = (2, 0, 2, 5, *[0] * (FANOUT - 4))
NOTHING = (None,) * FANOUT


@pytest.mark.parametrize(
    "items",
    [
        [],
        [item(2), item(2)],
        [item(2), item(5)],
        [item(5), item(2), item(2)],
        [item(2), item(2), (b"short", b"")],
        [item(2), item(2), integer_key(5)],
    ],
)
def test_a_child_without_an_item_is_a_key_error(items: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(KeyError):
        node_entries(CHILDREN, NOTHING, items, SEED)


def test_each_flipped_bit_of_an_item_is_found() -> None:
    key, value = item(5)
    for bit in range(len(value) * 8):
        flipped = bytearray(value)
        flipped[bit // 8] ^= 1 << bit % 8

        with pytest.raises(ValueError, match="checksum"):
            node_entries(CHILDREN, NOTHING, [item(2), item(2), (key, bytes(flipped))], SEED)


@pytest.mark.parametrize("payload", [b"", b"short", bytes(51), bytes(53)], ids=len)
def test_an_entry_of_another_size_is_refused(payload: bytes) -> None:
    with pytest.raises(ValueError, match="checksum"):
        node_entries(CHILDREN, NOTHING, [item(2), item(2), item(5, payload)], SEED)


@pytest.mark.parametrize("children", [(), (1,) * 63, (1,) * 65])
def test_a_node_has_64_children(children: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="64"):
        node_entries(children, NOTHING, [item(1)] * len(children), SEED)


def test_known_entries_have_one_place_for_each_child() -> None:
    with pytest.raises(ValueError, match="64"):
        node_entries(CHILDREN, (None,) * 63, [item(2), item(2), item(5)], SEED)


def test_a_known_entry_of_another_size_is_not_used() -> None:
    known = (b"short", *[None] * (FANOUT - 1))
    with pytest.raises(KeyError):
        node_entries(CHILDREN, known, [item(2), item(5)], SEED)


def truncated_children(seed: int) -> bytes:
    rng = random.Random(seed)
    ids = [ObjectId(rng.randrange(1 << rng.randrange(1, 51))) for _ in range(FANOUT)]
    return encode_children(ids)[: rng.randrange(600)]


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200) | st.integers(0, 1 << 32).map(truncated_children))
def test_any_bytes_are_children_or_an_error(payload: bytes) -> None:
    try:
        children = node_children(payload)
    except ValueError:
        return

    assert len(children) == FANOUT
    assert all(0 <= child < 1 << 63 for child in children)
