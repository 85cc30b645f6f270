"""Random events in the life of a VM, and random knobs of the server.

An event is a method of `vm_history.History` with its arguments. Histories turn only knobs that keep
the rules of VMware's documentation, or that break a rule which cbtfs checks. They do not turn these
knobs, because cbtfs cannot detect their effect:

- `cbt.silent_misses`: a missed change is unknown until a sample or a full reads it, and remains
  unknown if the block is written again and listed before. `test_silent_misses.py` tests this knob.
- `cbt.extend_skews`, `cbt.restore` as `unseen`, `snapshot.enable_with_snapshots` as `spoils`: the
  same, for one disk.
- `cbt.unmap_reported` as false together with `data.holes` as `hole` or `none`: then neither the
  list nor the transport reports discards. A history has one or the other.
- `data.size_delta`, `data.ranges`, `data.max_readers`, `data.locked_status`, `snapshot.max_depth`,
  `snapshot.physical_rdm`, `data.delay_seconds`, `task.seconds`, `session.idle_seconds`,
  `session.wait_seconds`: they make an ingest fail or wait, and do not change answers. Failed
  ingests are separate events.
"""

from dataclasses import dataclass
from typing import Any, Final

from hypothesis import strategies as st

from cbtfs.core.audit import Sampling

SIZES: Final = (24 * 4096 + 512, 70 * 4096)
KEYS: Final = (2000, 2001)
STORES: Final = ("datastore1", "fast")
REVERTS: Final = ("keep-id", "keep-epoch", "new-epoch")


@dataclass(frozen=True, slots=True)
class Start:
    """The VM and the server at the start of a history."""

    is_tracking: bool
    lists_discards: bool
    unmap_unit: int
    """Bytes."""
    block_size: int
    """Bytes."""
    transport: str
    knobs: dict[str, Any]
    """Knobs of change tracking."""


Event = tuple[str, dict[str, Any]]
Drawn = st.SearchStrategy[dict[str, Any]]


def _some(**knobs: st.SearchStrategy[Any]) -> Drawn:
    """Return a strategy for any subset of these knobs."""
    return st.fixed_dictionaries({}, optional=knobs)


KNOBS: Final[dict[str, Drawn]] = {
    "cbt": _some(
        granularity=st.sampled_from([512, 4096, 65536]),
        max_extents=st.sampled_from([1, 3, 2000]),
        page_span=st.sampled_from([0, 512, 5000, 65536]),
        empty_pages=st.booleans(),
        cut_at=st.sampled_from(["extent-end", "next-start", "middle"]),
        false_positives=st.integers(0, 5),
        seed=st.integers(0, 9),
        star=st.sampled_from(["allocated", "whole", "fault"]),
        sequence_step=st.integers(1, 20),
        ignore_stale=st.booleans(),
        revert=st.sampled_from(REVERTS),
        relocate=st.sampled_from(["keep", "reset", "off"]),
        hard_power_off=st.sampled_from(["keep", "reset"]),
        bad_id=st.sampled_from(["FileFault", "InvalidArgument"]),
    ),
    "snapshot": _some(
        quiesce=st.sampled_from(["ok", "application", "filesystem", "tools", "ignored"]),
        needs_consolidation=st.booleans(),
        locked_by_readers=st.booleans(),
        consolidate_locked=st.booleans(),
        enable_with_snapshots=st.sampled_from(["allow", "fault"]),
        revert_event=st.booleans(),
    ),
    "task": _some(in_progress_as=st.sampled_from(["task", "call"])),
    "session": _some(objects_per_page=st.integers(0, 2), updates_per_set=st.integers(1, 3)),
    "data": _some(
        holes=st.sampled_from(["zero", "hole", "none"]), min_block=st.sampled_from([1, 512, 4096])
    ),
}
PAGES: Final[Drawn] = st.sampled_from(
    [
        {},
        {"empty_pages": True},
        {"page_span": 512},
        {"page_span": 5000, "cut_at": "next-start"},
        {"max_extents": 1, "cut_at": "middle"},
        {"max_extents": 2, "granularity": 512},
    ]
)
"""Knobs that split answers into pages; a history starts with one of these sets."""
RUDE: Final[Drawn] = st.sampled_from(
    [
        *({"malformed": how} for how in ("echo", "zero-length", "overlap", "unsorted")),
        *({"malformed": how} for how in ("outside", "past-end", "empty-extent")),
        {"same_sequence": True},
        {"no_change_id": True},
    ]
)
"""Knobs that void all change lists until they are reset."""
CALLS: Final = (
    "CreateSnapshot_Task",
    "QueryEvents",
    "QueryChangedDiskAreas",
    "RemoveSnapshot_Task",
)
"""Calls of an ingest before which an event may occur."""


def _event(name: str, **arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[Event]:
    return st.tuples(st.just(name), st.fixed_dictionaries(arguments))


_PLACE: Final[dict[str, st.SearchStrategy[Any]]] = {
    "key": st.sampled_from(KEYS),
    "offset": st.integers(0, 80).map(lambda block: block * 4096) | st.integers(0, 80 * 4096),
    "length": st.sampled_from([4096, 5 * 4096, 65536, 1, 10_000]) | st.integers(1, 70_000),
}
GUEST: Final = st.one_of(
    *[_event("write", **_PLACE)] * 4,
    _event("write_zeros", **_PLACE),
    *[_event("trim", **_PLACE)] * 2,
)
ADMINISTRATOR: Final = st.one_of(
    _event("power", state=st.sampled_from(["on", "off", "shutdown", "suspend", "crash", "crash"])),
    _event("switch_tracking", enabled=st.booleans(), stun=st.booleans()),
    _event("reset_tracking", key=_PLACE["key"]),
    _event("migrate", store=st.sampled_from(STORES), key=st.sampled_from(["", *KEYS])),
    _event("migrate_host"),
    _event("grow", key=_PLACE["key"], more=st.sampled_from([512, 4096, 40 * 4096])),
    _event("restore_into", key=_PLACE["key"], offset=_PLACE["offset"]),
    _event("exchange_a_disk", is_added=st.booleans()),
    _event("wait", days=st.sampled_from([1, 31])),
)
SNAPSHOTS: Final = st.one_of(
    _event("snapshot"),
    _event("remove_snapshot", which=st.integers(0, 9)),
    _event("remove_snapshots"),
    _event("revert", which=st.integers(0, 9)),
    *[_event("try_and_revert", **_PLACE, how=st.sampled_from(REVERTS))] * 2,
)
SERVER: Final = st.one_of(
    *(_event("turn_knobs", group=st.just(group), knobs=KNOBS[group]) for group in ("cbt", *KNOBS)),
    _event("turn_knobs", group=st.just("cbt"), knobs=RUDE),
    _event("turn_knobs_of_one_disk", key=_PLACE["key"], knobs=KNOBS["cbt"]),
    *[_event("behave")] * 2,
)
REPOSITORY: Final = st.one_of(
    _event("forget_a_point", which=st.integers(0, 9)), _event("lose_the_catalog")
)
INGEST: Final = st.one_of(
    *[_event("ingest")] * 5,
    _event(
        "ingest",
        want=st.sampled_from(["auto", "full", "incremental"]),
        audit=st.sampled_from([None, Sampling(0.001, least=4), Sampling(1.0)]),
        quiesce=st.booleans(),
        exclude=st.sampled_from([(), (str(KEYS[0]),), (str(KEYS[1]),)]),
    ),
    _event(
        "ingest_while_something_happens",
        method=st.sampled_from(CALLS),
        at=st.integers(1, 2),
        what=st.sampled_from(["write", "revert", "power", "snapshot", "stun", "set_cbt"]),
    ),
    _event("fail_to_ingest", method=st.sampled_from(["read", *CALLS]), at=st.integers(1, 3)),
    _event("leave_a_snapshot", offset=_PLACE["offset"], length=_PLACE["length"]),
)
DAYS: Final = st.tuples(
    st.lists(GUEST, max_size=3),
    st.lists(st.one_of(ADMINISTRATOR, SNAPSHOTS, SNAPSHOTS, SERVER, REPOSITORY), max_size=2),
    st.lists(GUEST, max_size=2),
    INGEST,
).map(lambda day: [*day[0], *day[1], *day[2], day[3]])
"""Guest writes, at most two other events, more guest writes, an ingest."""
START: Final = st.builds(
    Start,
    is_tracking=st.booleans(),
    lists_discards=st.booleans(),
    unmap_unit=st.sampled_from([4096, 65536]),
    block_size=st.sampled_from([4096, 16384]),
    transport=st.sampled_from(["nbd", "nfc", "datastore"]),
    knobs=st.tuples(PAGES, KNOBS["cbt"]).map(lambda knobs: {**knobs[1], **knobs[0]}),
)
"""`datastore` does not report allocation, so lists always have discards if it is drawn."""
