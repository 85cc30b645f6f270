"""Target: the objects of shared writers."""

import contextlib
from collections.abc import Callable
from typing import Any, Final

from cbtfs.core.ids import PackId, PointId
from cbtfs.core.sealed import unseal
from cbtfs.core.shared import (
    Candidates,
    Entry,
    Hold,
    Intent,
    LogEntry,
    Origin,
    PruneId,
    RunId,
    Tombstone,
    Verdict,
    decode_candidates,
    decode_entry,
    decode_hold,
    decode_intent,
    decode_verdict,
    encode_candidates,
    encode_entry,
    encode_hold,
    encode_intent,
    encode_tombstone,
    encode_verdict,
    split_numbered,
    split_prune,
    tombstone_in,
)

_ID: Final = "ab" * 16
FORMS: Final[tuple[tuple[Callable[[bytes], Any], Callable[[Any], bytes]], ...]] = (
    (decode_intent, encode_intent),
    (decode_entry, encode_entry),
    (decode_candidates, encode_candidates),
    (decode_verdict, encode_verdict),
    (decode_hold, encode_hold),
)
"""Decoder and encoder of each kind of object."""


def decode_all(document: bytes) -> None:
    """Give *document* to each decoder; what one accepts has a second form that is equal."""
    for decode, encode in FORMS:
        with contextlib.suppress(ValueError):
            value = decode(document)
            assert decode(encode(value)) == value
    with contextlib.suppress(ValueError):
        tombstone = tombstone_in(unseal(document))
        if tombstone is not None:
            encode_tombstone(tombstone)
    name = document.decode("latin-1")
    split_numbered(name)
    split_prune(name)


def shared_seeds() -> list[bytes]:
    """Return one object of each kind."""
    run, prune, packs = RunId(_ID), PruneId(_ID), frozenset([PackId(_ID)])
    origin = Origin("host1", 1, "2026-01-01T00:00:00Z", "cbtfs")
    return [
        encode_intent(Intent(run, _ID, origin)),
        encode_entry(LogEntry(run, Entry.FORGOTTEN, _ID, origin)),
        encode_candidates(Candidates(prune, packs, origin)),
        encode_verdict(Verdict(prune, packs, frozenset([run]), _ID)),
        encode_hold(Hold(_ID, run, PointId(_ID), origin)),
        encode_tombstone(Tombstone(run, _ID)),
    ]
