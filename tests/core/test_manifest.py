"""Manifests and states: encoding is reversible, and any error raises ValueError."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbtfs.core.allocation import Allocation
from cbtfs.core.extent import Extent
from cbtfs.core.ids import NULL_DIGEST, Digest, DiskId, PointId, VmId
from cbtfs.core.manifest import (
    MAX_DISK_BYTES,
    Counts,
    DiskRecord,
    Manifest,
    PointState,
    Vm,
    decode_manifest,
    decode_state,
    encode_manifest,
    encode_state,
    is_block_size,
    manifest_of,
    unknown_state,
)
from cbtfs.core.moment import format_moment
from cbtfs.core.names import encode_name
from cbtfs.core.reasons import FullReason
from cbtfs.core.sealed import seal, unseal

IDS = st.text("0123456789abcdef", min_size=32, max_size=32)
TEXTS = st.text(max_size=12)
NAMES = TEXTS.map(encode_name)
MOMENTS = st.datetimes(timezones=st.just(UTC)).map(format_moment)
NUMBERS = st.integers(0, (1 << 63) - 1)
KINDS = st.sampled_from(["full", "incremental"])
FACTS = st.dictionaries(TEXTS, NUMBERS | TEXTS | st.lists(TEXTS, max_size=2), max_size=3)

DISKS = st.builds(
    DiskRecord,
    id=IDS.map(DiskId),
    identity=TEXTS,
    label=TEXTS,
    kind=st.sampled_from(["disk", "file"]),
    size=st.integers(1, MAX_DISK_BYTES),
    block_size=st.sampled_from([4096, 65536, 1 << 20]),
    root=st.binary(min_size=32, max_size=32).map(Digest),
    data_blocks=NUMBERS,
    ingest=KINDS,
    reason=TEXTS,
    full_reason=st.none() | st.sampled_from(FullReason),
    parent=st.none() | IDS.map(PointId),
    change_id=st.none() | TEXTS,
    suspect=st.none() | TEXTS,
    audit=st.none() | FACTS,
    counts=st.builds(Counts, NUMBERS, NUMBERS, NUMBERS, NUMBERS, NUMBERS),
)
VMS = st.builds(
    Vm,
    IDS.map(VmId),
    TEXTS,
    NAMES,
    vcenter=st.none() | TEXTS,
    instance_uuid=st.none() | TEXTS,
)
MANIFESTS = st.builds(
    Manifest,
    point=IDS.map(PointId),
    vm=VMS,
    order=NUMBERS,
    time=MOMENTS,
    name=NAMES,
    committed=MOMENTS,
    run=IDS,
    program=TEXTS,
    kind=KINDS,
    reason=TEXTS,
    disks=st.lists(DISKS, max_size=2).map(tuple),
    metadata=FACTS,
    time_source=st.sampled_from(["clock", "given"]),
)
STATES = st.builds(
    PointState,
    IDS.map(PointId),
    is_protected=st.booleans(),
    tags=st.lists(TEXTS, max_size=3).map(tuple),
    suspect=st.none() | TEXTS,
    suspect_disks=st.lists(IDS.map(DiskId), max_size=2).map(tuple),
    verified=st.none() | MOMENTS,
)

ID = "0123456789abcdef" * 2


def a_disk(**changes: Any) -> DiskRecord:
    facts: dict[str, Any] = {
        "id": DiskId(ID),
        "identity": "scsi0:0",
        "label": "disk",
        "kind": "disk",
        "size": 5000,
        "block_size": 4096,
        "root": NULL_DIGEST,
        "data_blocks": 0,
        "ingest": "full",
        "reason": "first",
    }
    return DiskRecord(**(facts | changes))


def a_manifest(*disks: DiskRecord) -> Manifest:
    vm = Vm(VmId(ID), "web", "web", "vc.example", "uuid")
    return Manifest(
        point=PointId(ID),
        vm=vm,
        order=1,
        time="2026-01-01T00:00:00Z",
        name="2026-01-01T00-00-00Z",
        committed="2026-01-01T00:00:01Z",
        run=ID,
        program="tests",
        kind="full",
        reason="first",
        disks=disks,
        metadata={"a": 1},
    )


WHOLE = a_manifest(
    a_disk(
        parent=PointId(ID),
        change_id="52 4e/7",
        suspect="why",
        audit={"blocks": 3},
        full_reason=FullReason.NO_LIST,
        allocation=Allocation("star", 900, (Extent(0, 10), Extent(20, 5)), refused="why"),
    ),
)
OPTIONAL = {"vcenter", "instance_uuid", "parent", "change_id", "suspect", "audit", "verified"}
OPTIONAL |= {"time_source", "full_reason", "allocation", "refused"}


def members(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every member of a document, without the insides of free-form members."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield (*path, key)
            if key not in ("metadata", "audit"):
                yield from members(value, (*path, key))
    if isinstance(node, list):
        for at, value in enumerate(node):
            yield from members(value, (*path, at))


def document() -> dict[str, Any]:
    return unseal(encode_manifest(WHOLE))


MEMBERS = list(members(document()))


NEVER: Final = [-1, 1 << 64, [1], [[]], ["x"]]
"""A value that is valid for no member."""
NO_MEMBERS: Final = [*NEVER, 7, 1.5, "x", True, {"x": 1}]


def parent_of(node: Any, path: tuple[Any, ...]) -> Any:
    for key in path[:-1]:
        node = node[key]
    return node


@given(MANIFESTS)
def test_a_manifest_round_trips(manifest: Manifest) -> None:
    assert decode_manifest(encode_manifest(manifest)) == manifest


@given(STATES)
def test_a_state_round_trips(state: PointState) -> None:
    assert decode_state(encode_state(state), state.point) == state


@pytest.mark.parametrize("path", [path for path in MEMBERS if path[-1] not in OPTIONAL])
def test_a_manifest_without_a_member_is_refused(path: tuple[Any, ...]) -> None:
    broken = document()
    del parent_of(broken, path)[path[-1]]

    with pytest.raises(ValueError, match=f"{path[-1]}"):
        manifest_of(broken)


@pytest.mark.parametrize("path", [path for path in MEMBERS if path[-1] in OPTIONAL])
def test_a_manifest_without_an_optional_member_is_whole(path: tuple[Any, ...]) -> None:
    lacking, null = document(), document()
    del parent_of(lacking, path)[path[-1]]
    parent_of(null, path)[path[-1]] = None

    assert manifest_of(lacking) == manifest_of(null)


def test_a_reason_code_of_a_newer_program_is_other() -> None:
    newer = document()
    newer["disks"][0]["full_reason"] = "sunspots"

    assert manifest_of(newer).disks[0].full_reason is FullReason.OTHER


@pytest.mark.parametrize("path", MEMBERS)
def test_a_member_of_another_type_is_refused(path: tuple[Any, ...]) -> None:
    member = parent_of(document(), path)[path[-1]]
    for other in NO_MEMBERS:
        if type(other) is type(member) and other not in NEVER:
            continue
        broken = document()
        parent_of(broken, path)[path[-1]] = other

        with pytest.raises(ValueError, match=r"."):
            decode_manifest(seal(broken))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("size", MAX_DISK_BYTES + 1),
        ("block_size", 0),
        ("block_size", 2048),
        ("block_size", 4097),
        ("block_size", 1 << 21),
        ("root", "00"),
        ("root", "zz" * 32),
        ("root", "00" * 33),
        ("id", "0" * 31),
        ("id", "A" * 32),
        ("parent", "../../etc/passwd"),
        ("kind", "tape"),
        ("ingest", "Full"),
    ],
)
def test_a_disk_that_cannot_be_is_refused(key: str, value: object) -> None:
    broken = document()
    broken["disks"][0][key] = value

    with pytest.raises(ValueError, match=r"."):
        manifest_of(broken)


@pytest.mark.parametrize("version", [0, 2, 1 << 40])
def test_a_manifest_of_another_format_is_refused(version: int) -> None:
    with pytest.raises(ValueError, match=f"manifest format {version}"):
        manifest_of(document() | {"format": version})


def test_members_that_nobody_knows_are_passed_over() -> None:
    assert manifest_of(document() | {"colour": "blue"}) == WHOLE


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("point", "f" * 32),
        ("point", 1),
        ("is_protected", 1),
        ("is_protected", None),
        ("tags", "abc"),
        ("tags", [1]),
        ("tags", [None]),
        ("tags", {}),
        ("suspect", True),
        ("suspect_disks", "abc"),
        ("suspect_disks", [1]),
        ("suspect_disks", ["x"]),
        ("suspect_disks", {}),
        ("verified", 7),
        ("proof", 3),
        ("proof", {"level": "3"}),
        ("proof", {"level": 3}),
    ],
)
def test_a_state_with_a_member_of_another_type_is_refused(key: str, value: object) -> None:
    state = unseal(encode_state(PointState(PointId(ID)))) | {key: value}

    with pytest.raises(ValueError, match=r"."):
        decode_state(seal(state), PointId(ID))


@pytest.mark.parametrize("key", ["point", "is_protected", "tags"])
def test_a_state_without_a_member_is_refused(key: str) -> None:
    state = unseal(encode_state(PointState(PointId(ID))))
    del state[key]

    with pytest.raises(ValueError, match=r"."):
        decode_state(seal(state), PointId(ID))


def test_an_unknown_state_is_protected_and_suspect() -> None:
    state = unknown_state(PointId(ID))

    assert state.is_protected
    assert state.suspect


ONE, OTHER = DiskId("1" * 32), DiskId("2" * 32)


def test_a_state_without_disks_suspects_all_of_them() -> None:
    state = PointState(PointId(ID), suspect="why")

    assert state.suspects(ONE) == "why"
    assert state.suspecting(ONE, "besides") == state


def test_a_suspect_disk_does_not_affect_other_disks() -> None:
    state = PointState(PointId(ID)).suspecting(ONE, "why")

    assert (state.suspects(ONE), state.suspects(OTHER)) == ("why", None)
    assert state.suspecting(ONE, "again") == state


def test_a_second_suspect_disk_adds_its_reason() -> None:
    first = PointState(PointId(ID), tags=("kept", "acknowledged")).suspecting(ONE, "why")
    assert first.tags == ("kept",)
    known = replace(first, tags=("kept", "acknowledged"))
    assert known.suspecting(ONE, "once more") == known
    assert known.suspecting(OTHER, "so").tags == ("kept",)

    state = PointState(PointId(ID)).suspecting(ONE, "why").suspecting(OTHER, "so")

    assert state.suspect_disks == (ONE, OTHER)
    assert state.suspects(OTHER) == "why; so"


def test_a_state_without_suspect_disks_is_readable() -> None:
    old = unseal(encode_state(PointState(PointId(ID), suspect="why")))
    del old["suspect_disks"]

    assert decode_state(seal(old), PointId(ID)) == PointState(PointId(ID), suspect="why")


@pytest.mark.parametrize("label", ["data", "1" * 32])
def test_a_disk_is_found_by_its_label_or_its_id(label: str) -> None:
    disk = a_disk(id=DiskId("1" * 32), label="data")

    assert a_manifest(a_disk(), disk).disk(label) == disk


def test_a_label_goes_before_an_id() -> None:
    by_label = a_disk(id=DiskId("2" * 32), label="1" * 32)

    assert a_manifest(a_disk(id=DiskId("1" * 32)), by_label).disk("1" * 32) == by_label


def test_an_unknown_disk_is_none() -> None:
    assert a_manifest(a_disk()).disk("other") is None


@pytest.mark.parametrize("size", [4096, 8192, 65536, 1 << 20])
def test_powers_of_two_from_4_kib_to_1_mib_are_block_sizes(size: int) -> None:
    assert is_block_size(size)


@pytest.mark.parametrize("size", [0, -4096, 1, 2048, 4095, 6144, 1 << 21])
def test_other_numbers_are_no_block_sizes(size: int) -> None:
    assert not is_block_size(size)


def test_a_name_may_be_as_long_as_file_names_are() -> None:
    long = document()
    long["name"] = "x" * 255

    assert manifest_of(long).name == "x" * 255


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\0b", "x" * 256, "\ud800"])
@pytest.mark.parametrize("place", ["directory", "name"])
def test_a_name_that_is_no_file_name_is_refused(place: str, name: str) -> None:
    broken = document()
    (broken["vm"] if place == "directory" else broken)[place] = name

    with pytest.raises(ValueError, match="file name"):
        manifest_of(broken)


@pytest.mark.parametrize("place", ["time", "committed"])
def test_an_invalid_time_is_refused(place: str) -> None:
    with pytest.raises(ValueError, match="RFC 3339"):
        manifest_of(document() | {place: "yesterday"})


def test_a_disk_of_size_0_has_no_content() -> None:
    assert a_disk(size=0).size == 0
    with pytest.raises(ValueError, match="size 0"):
        a_disk(size=0, root=Digest(b"x" * 32))
