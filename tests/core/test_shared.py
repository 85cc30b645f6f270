"""Objects of shared writers: round trips, and damage that is detected."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbtfs.core.ids import PackId, PointId
from cbtfs.core.manifest import PointState, decode_manifest, encode_manifest
from cbtfs.core.sealed import seal, unseal
from cbtfs.core.shared import (
    Candidates,
    Entry,
    Hold,
    Intent,
    Log,
    LogEntry,
    Origin,
    PruneId,
    RunId,
    Tombstone,
    Verdict,
    encode_tombstone,
    numbered,
    prunes_of,
    split_numbered,
    split_prune,
    tombstone_in,
)
from cbtfs.core.states import merge_states
from tests.make_points import manifest_of
from tools.fuzz import shared

ids = st.binary(min_size=16, max_size=16).map(bytes.hex)
runs, packs, prunes = ids.map(RunId), ids.map(PackId), ids.map(PruneId)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=9)
origins = st.builds(Origin, texts, st.integers(0, 1 << 22), texts, texts)
intents = st.builds(Intent, runs, ids, origins)
entries = st.builds(LogEntry, runs, st.sampled_from(Entry), ids, origins)
candidates = st.builds(Candidates, prunes, st.frozensets(packs, max_size=5), origins)
verdicts = st.builds(
    Verdict, prunes, st.frozensets(packs, max_size=5), st.frozensets(runs, max_size=5), ids
)
holds = st.builds(Hold, ids, runs, ids.map(PointId), origins)

STRATEGIES: tuple[st.SearchStrategy[Any], ...] = (intents, entries, candidates, verdicts, holds)
FORMS = [
    (values, encode, decode)
    for values, (decode, encode) in zip(STRATEGIES, shared.FORMS, strict=True)
]


@given(st.data())
def test_objects_survive_a_round_trip_and_no_other_decoder_takes_them(data: st.DataObject) -> None:
    for values, encode, decode in FORMS:
        value = data.draw(values)
        assert decode(encode(value)) == value
        for _, _, other in FORMS:
            if other is not decode:
                with pytest.raises(ValueError, match="not a"):
                    other(encode(value))


@given(st.data())
def test_a_changed_member_is_refused_with_a_value_error(data: st.DataObject) -> None:
    values, encode, decode = data.draw(st.sampled_from(FORMS))
    document = unseal(encode(data.draw(values)))
    member = data.draw(st.sampled_from(sorted(document)))
    wrong = data.draw(st.none() | st.booleans() | st.lists(st.integers(), min_size=1) | st.floats())

    with pytest.raises(ValueError, match=r".+"):
        decode(seal({**document, member: wrong if wrong == wrong else None}))


@given(st.data(), st.integers(0, 7))
def test_a_flipped_bit_is_detected(data: st.DataObject, bit: int) -> None:
    values, encode, decode = data.draw(st.sampled_from(FORMS))
    encoded = bytearray(encode(data.draw(values)))
    encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= 1 << bit

    with pytest.raises(ValueError, match=r".+"):
        decode(bytes(encoded))


def test_a_tombstone_is_not_a_manifest() -> None:
    tombstone = Tombstone(RunId("a" * 32), "b" * 32)
    manifest = encode_manifest(manifest_of("vm", None, ()))

    assert tombstone_in(unseal(encode_tombstone(tombstone))) == tombstone
    assert tombstone_in(unseal(manifest)) is None
    with pytest.raises(ValueError, match="format"):
        decode_manifest(encode_tombstone(tombstone))


@given(ids, st.integers(0, 10**12 - 1), st.integers(0, 10**12 - 1))
def test_names_have_the_order_of_their_numbers(name: str, one: int, other: int) -> None:
    assert (numbered(name, one) < numbered(name, other)) == (one < other)
    assert split_numbered(numbered(name, one)) == (name, one)
    assert split_prune(numbered(name, one)) is None


@given(st.permutations([(1, Entry.FORGOTTEN), (2, Entry.RESTORED), (3, Entry.FINAL), (4, None)]))
def test_a_final_entry_wins_in_any_order(listed: list[tuple[int, Entry | None]]) -> None:
    log = Log()
    for number, entry in listed:
        log = log.then(number, entry or Entry.RESTORED)

    assert log == Log(4, Entry.FINAL)


@given(
    st.lists(candidates, max_size=4, unique_by=lambda known: known.prune),
    st.lists(verdicts, max_size=4),
)
def test_a_verdict_ends_the_condemnation_by_its_prune(
    begun: list[Candidates], done: list[Verdict]
) -> None:
    one = begun[0].prune if begun else PruneId("0" * 32)
    verdict = Verdict(one, frozenset(), frozenset(), "0" * 32)

    known = prunes_of(begun, [*done, verdict])

    assert one not in known.unfinished
    assert known.condemned == frozenset().union(
        *(c.packs for c in begun if c.prune not in {v.prune for v in [*done, verdict]})
    )


POINT = PointId("e" * 32)
tags = st.lists(st.sampled_from("abc"), unique=True).map(tuple)
states = st.builds(
    PointState,
    st.just(POINT),
    st.booleans(),
    tags,
    st.none() | st.just("x"),
    verified=st.none() | st.just("2026-01-01T00:00:00Z"),
)


@given(states, states, states)
def test_changes_of_two_programs_are_merged(
    base: PointState, mine: PointState, theirs: PointState
) -> None:
    merged = merge_states(base, mine, theirs)

    assert merge_states(base, base, theirs) == theirs
    assert {*merge_states(base, mine, base).tags} == {*mine.tags}
    assert {*mine.tags} - {*base.tags} <= {*merged.tags}
    assert not ({*base.tags} - {*mine.tags}) & {*merged.tags}
    if theirs.suspect is not None and base.suspect is None:
        assert merged.suspect is not None
    if mine.suspect is not None and base.suspect is None:
        assert merged.suspect is not None
