"""The order of VMs: no limit is exceeded, each VM is captured, and no VM waits needlessly."""

from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbtfs.ingest.fleet.schedule import FleetLimits, Needs, Resource, Schedule

HOSTS = tuple(Resource("host", name) for name in "abc")
STORES = tuple(Resource("datastore", name) for name in "xyz")
HOST, STORE = HOSTS[0], STORES[0]
VCENTER = Resource("vcenter", "v")

NEEDS = st.builds(
    lambda host, disks, stores: {host: disks, VCENTER: disks, **dict.fromkeys(stores, 1)},
    st.sampled_from(HOSTS),
    st.integers(0, 9),
    st.sets(st.sampled_from(STORES), max_size=3),
)
LIMITS = st.builds(
    FleetLimits,
    st.integers(1, 6),
    st.none() | st.integers(1, 8),
    st.none() | st.integers(1, 3),
    st.none() | st.integers(1, 12),
)


@dataclass
class InProgress:
    """The VMs in progress, counted independently of the schedule."""

    limits: FleetLimits
    at_work: dict[int, Needs] = field(default_factory=dict)

    def in_use(self) -> "Counter[Resource]":
        total: Counter[Resource] = Counter()
        for needs in self.at_work.values():
            total.update(needs)
        return total

    def fits(self, needs: Needs) -> bool:
        """Return whether the limits allow a VM; a VM above a limit needs an unused resource."""
        in_use = self.in_use()
        return all(
            (limit := self.limits.of(resource)) is None
            or in_use[resource] == 0
            or in_use[resource] + amount <= limit
            for resource, amount in needs.items()
        )

    def assert_within(self) -> None:
        assert len(self.at_work) <= self.limits.jobs
        for resource, amount in self.in_use().items():
            limit = self.limits.of(resource)
            users = [needs for needs in self.at_work.values() if needs.get(resource)]
            assert limit is None or amount <= limit or len(users) == 1


@given(
    LIMITS,
    st.lists(NEEDS, max_size=12),
    st.data(),
)
def test_limits_hold_each_vm_is_captured_and_none_waits_needlessly(
    limits: FleetLimits, needs: list[Needs], data: st.DataObject
) -> None:
    """VMs may move, end in any order, and be retried."""
    schedule, progress = Schedule(len(needs), limits), InProgress(limits)
    where = dict(enumerate(needs))
    left = set(where)
    again = {number: data.draw(st.integers(0, 2), "tries more") for number in left}
    while not schedule.is_over:
        while (number := schedule.take()) is not None:
            if data.draw(st.booleans(), "moved"):
                where[number] = data.draw(NEEDS, "to")
            fits = progress.fits(where[number])
            assert schedule.place(number, where[number]) == fits
            if fits:
                progress.at_work[number] = where[number]
            progress.assert_within()
        waiting = left - progress.at_work.keys()
        assert len(progress.at_work) == limits.jobs or not any(
            progress.fits(where[n]) for n in waiting
        )
        assert progress.at_work or not left
        if progress.at_work:
            ends = data.draw(st.sampled_from(sorted(progress.at_work)), "ends")
            del progress.at_work[ends]
            if again[ends]:
                again[ends] -= 1
                schedule.again(ends)
            else:
                left.remove(ends)
                schedule.end(ends)

    assert left == set()
    assert not any(again.values())


@given(LIMITS, st.lists(NEEDS, max_size=12))
def test_the_same_vms_go_in_the_same_order(limits: FleetLimits, needs: list[Needs]) -> None:
    assert order(limits, needs) == order(limits, needs)


def order(limits: FleetLimits, needs: list[Needs]) -> list[int]:
    """Return the order in which VMs start if they end in the order of their starts."""
    schedule = Schedule(len(needs), limits)
    went: list[int] = []
    while not schedule.is_over:
        while (number := schedule.take()) is not None:
            if schedule.place(number, needs[number]):
                went.append(number)
        schedule.end(schedule.taken[0])
    return went


def test_a_vm_on_a_busy_host_does_not_block_another() -> None:
    busy, other = {HOST: 2}, {HOSTS[1]: 2}

    assert order(FleetLimits(2, per_host=3), [busy, busy, busy, other]) == [0, 3, 1, 2]


def test_a_waiting_vm_starts_before_later_ones() -> None:
    schedule = Schedule(4, FleetLimits(2, per_host=1))
    for number in (0, 1):
        assert schedule.take() == number
        schedule.place(number, {HOST: 1})
    assert schedule.take() == 2
    assert schedule.place(2, {HOSTS[1]: 1})
    schedule.end(0)

    assert schedule.take() == 1
    assert schedule.place(1, {HOST: 1})


def test_a_vm_over_the_limit_starts_when_no_other_uses_the_host() -> None:
    assert order(FleetLimits(3, per_host=4), [{HOST: 9}, {HOST: 1}, {HOST: 4}]) == [0, 1, 2]
    assert order(FleetLimits(3, per_host=4), [{HOST: 1}, {HOST: 9}, {HOST: 1}]) == [0, 2, 1]


def test_a_vm_that_moves_to_a_full_host_waits_and_others_start() -> None:
    schedule = Schedule(3, FleetLimits(2, per_host=1))
    assert schedule.place(number_of(schedule.take()), {HOST: 1})
    moved = number_of(schedule.take())
    assert not schedule.place(moved, {HOST: 1})
    assert schedule.take() == 2
    assert schedule.place(2, {HOSTS[1]: 1})
    schedule.end(2)
    assert schedule.take() is None

    schedule.end(0)
    assert schedule.take() == moved


def number_of(taken: int | None) -> int:
    assert taken is not None
    return taken


def test_a_retried_vm_goes_last() -> None:
    schedule = Schedule(3, FleetLimits(1))
    assert schedule.take() == 0
    schedule.again(0)

    for number in (1, 2):
        assert schedule.take() == number
        schedule.end(number)
    assert schedule.take() == 0


def test_without_limits_only_jobs_count() -> None:
    schedule = Schedule(9, FleetLimits(3, None, None))
    for number in range(3):
        assert schedule.take() == number
        assert schedule.place(number, {HOST: 100, STORE: 1})

    assert schedule.take() is None


def test_waiting_vms_can_be_dropped() -> None:
    schedule = Schedule(3, FleetLimits(1))
    assert schedule.take() == 0
    schedule.drop()
    schedule.end(0)

    assert schedule.is_over


@pytest.mark.parametrize("limits", [{"jobs": 0}, {"per_host": 0}, {"per_datastore": -1}])
def test_a_limit_is_at_least_one(limits: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="not limits"):
        FleetLimits(**limits)
