"""Pages of QueryChangedDiskAreas, and their extents compared with an oracle."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.tools.vsim.clients import (
    BLOCK,
    DISK,
    MIB,
    based,
    change_id,
    changed,
    connected,
    enable_cbt,
    inventory,
    machine,
    pages,
    remove,
    take_snapshot,
)
from tools.vsim import Simulator


@pytest.fixture
def scattered(sim: Simulator, vm: Any) -> tuple[Any, str]:
    """Yield a snapshot with ten changed blocks, and the change ID before the changes."""
    base = based(vm)
    for number in range(10):
        sim.do.write("web1", DISK, (3 + 6 * number) * BLOCK, b"x")
    return take_snapshot(vm), base


SCATTERED = [((3 + 6 * number) * BLOCK, BLOCK) for number in range(10)]


@pytest.mark.parametrize("cut_at", ["extent-end", "next-start", "middle"])
@pytest.mark.parametrize("limit", [1, 3, 2000])
def test_pages_hold_at_most_max_extents(
    sim: Simulator, vm: Any, scattered: tuple[Any, str], limit: int, cut_at: str
) -> None:
    snapshot, base = scattered
    sim.knobs.change("cbt", max_extents=limit, cut_at=cut_at)
    received = pages(vm, snapshot, base)
    starts = {3 * BLOCK + BLOCK, 9 * BLOCK, 6 * BLOCK + BLOCK // 2}

    assert [(e.start, e.length) for page in received for e in page.changedArea] == SCATTERED
    assert max(len(page.changedArea) for page in received) == min(limit, 10)
    if limit == 1:
        assert received[1].startOffset in starts
        assert (cut_at == "next-start") == (received[1].startOffset == 9 * BLOCK)


def test_pages_in_the_middle_can_be_empty(
    sim: Simulator, vm: Any, scattered: tuple[Any, str]
) -> None:
    snapshot, base = scattered
    sim.knobs.change("cbt", empty_pages=True)
    received = pages(vm, snapshot, base)

    assert [len(page.changedArea) for page in received] == [0, 1] * 10 + [0]
    assert [(e.start, e.length) for page in received for e in page.changedArea] == SCATTERED


def test_pages_can_be_short(sim: Simulator, vm: Any, scattered: tuple[Any, str]) -> None:
    snapshot, base = scattered
    sim.knobs.change("cbt", page_span=BLOCK + 512)
    received = pages(vm, snapshot, base)

    assert max(page.length for page in received) == BLOCK + 512
    assert sum(extent.length for page in received for extent in page.changedArea) == 10 * BLOCK


def test_false_positives_are_added_to_real_changes(
    sim: Simulator, vm: Any, scattered: tuple[Any, str]
) -> None:
    snapshot, base = scattered
    sim.knobs.change("cbt", false_positives=20, seed=5)
    covered = {
        block
        for start, length in changed(vm, snapshot, base)
        for block in range(start // BLOCK, (start + length) // BLOCK)
    }

    assert {start // BLOCK for start, _ in SCATTERED} < covered


def test_silent_misses_are_the_same_in_every_query(
    sim: Simulator, vm: Any, scattered: tuple[Any, str]
) -> None:
    snapshot, base = scattered
    sim.knobs.change("cbt", silent_misses=0.5, seed=1)
    extents = changed(vm, snapshot, base)

    assert set(extents) < set(SCATTERED)
    assert changed(vm, snapshot, base) == extents


def test_one_disk_can_have_knobs_of_its_own(sim: Simulator, vm: Any) -> None:
    sim.do.set_disk_cbt("web1", 2001, silent_misses=1.0)
    enable_cbt(vm)
    first = take_snapshot(vm)
    bases = {key: change_id(first, key) for key in (2000, 2001)}
    remove(first)
    for key in bases:
        sim.do.write("web1", key, 0, b"x")
    snapshot = take_snapshot(vm)

    assert changed(vm, snapshot, bases[2000], 2000) == [(0, BLOCK)]
    assert changed(vm, snapshot, bases[2001], 2001) == []


def broken(page: Any, offset: int, capacity: int) -> bool:
    """Return whether the page breaks a rule of the answer."""
    end = page.startOffset + page.length
    previous = offset
    for extent in page.changedArea:
        if extent.length <= 0 or extent.start < previous or extent.start + extent.length > end:
            return True
        previous = extent.start + extent.length
    return bool(page.startOffset != offset or page.length <= 0 or end > capacity)


@pytest.mark.parametrize(
    "malformed",
    ["echo", "zero-length", "overlap", "unsorted", "outside", "past-end", "empty-extent"],
)
def test_answers_can_be_malformed(
    sim: Simulator, vm: Any, scattered: tuple[Any, str], malformed: str
) -> None:
    snapshot, base = scattered
    sim.knobs.change("cbt", max_extents=4)
    assert not broken(vm.QueryChangedDiskAreas(snapshot, DISK, 0, base), 0, 4 * MIB)
    sim.knobs.change("cbt", malformed=malformed)

    assert broken(vm.QueryChangedDiskAreas(snapshot, DISK, 0, base), 0, 4 * MIB)


# comparison with an oracle

SIZE = 24 * 4096 + 512
PIECES = st.tuples(st.integers(0, SIZE - 1), st.binary(min_size=1, max_size=9000), st.booleans())
ROUNDS = st.lists(st.lists(PIECES, max_size=4), min_size=1, max_size=5)


@pytest.fixture(scope="module")
def small() -> Iterator[tuple[Simulator, Any]]:
    """Yield a simulator for many examples; each example adds its own machines."""
    with Simulator(inventory()) as sim, connected(sim) as service:
        sim.knobs.change("cbt", granularity=4096, unmap_unit=4096)
        yield sim, service


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rounds=ROUNDS, limit=st.integers(1, 3), cut_at=st.sampled_from(["next-start", "middle"]))
def test_a_chain_of_increments_restores_every_byte_of_every_snapshot(
    small: tuple[Simulator, Any], rounds: list[list[Any]], limit: int, cut_at: str
) -> None:
    sim, service = small
    sim.knobs.change("cbt", max_extents=limit, cut_at=cut_at)
    name = f"vm{len(sim.do.vms())}"
    sim.do.add_vm({"name": name, "cbt": True, "disk": [{"size": SIZE}]})
    vm = machine(service, name)
    guest, copy, base = bytearray(SIZE), bytearray(SIZE), None
    for writes in rounds:
        for offset, data, is_discard in writes:
            piece = data[: SIZE - offset]
            if is_discard:
                sim.do.discard(name, DISK, offset, len(piece))
                end = SIZE if offset + len(piece) == SIZE else (offset + len(piece)) // 4096 * 4096
                offset = -(-offset // 4096) * 4096
                piece = bytes(max(end - offset, 0))
            else:
                sim.do.write(name, DISK, offset, piece)
            guest[offset : offset + len(piece)] = piece
        snapshot = take_snapshot(vm, f"{name}-backup")
        truth = sim.do.truth(f"{name}-backup", DISK)
        with open(truth["path"], "rb") as file:
            held = file.read()
        assert held == guest
        for start, length in changed(vm, snapshot, base or "*"):
            copy[start : start + length] = held[start : start + length]
        assert copy == guest
        base = change_id(snapshot)
        remove(snapshot)
