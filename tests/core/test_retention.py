"""Retention against a simple oracle, and the promises of the help."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbtfs.core.ids import PointId
from cbtfs.core.retention import Candidate, Decision, Policy, decide

START = datetime(2026, 1, 1, tzinfo=UTC)
NOW = START + timedelta(days=900)
COUNTS = st.integers(0, 5)

POLICIES = st.builds(
    Policy,
    last=COUNTS,
    hourly=COUNTS,
    daily=COUNTS,
    weekly=COUNTS,
    monthly=COUNTS,
    yearly=COUNTS,
    within=st.none() | st.builds(timedelta, hours=st.integers(0, 2000)),
    tags=st.frozensets(st.sampled_from("ab")),
    zone=st.sampled_from([UTC, ZoneInfo("Europe/Berlin"), timezone(timedelta(hours=-9))]),
)


def point_at(number: int, moment: datetime, **facts: object) -> Candidate:
    return Candidate(PointId(f"{number:032x}"), moment, number, **facts)  # type: ignore[arg-type]


@st.composite
def histories(draw: st.DrawFn) -> list[Candidate]:
    hours = draw(st.lists(st.integers(0, 20_000), max_size=40))
    return [
        point_at(
            number,
            START + timedelta(hours=at),
            tags=tuple(draw(st.frozensets(st.sampled_from("abc"), max_size=2))),
            is_protected=draw(st.booleans()) and draw(st.booleans()),
        )
        for number, at in enumerate(hours)
    ]


def kept(decisions: list[Decision]) -> set[PointId]:
    return {decision.point for decision in decisions if decision.is_kept}


def expected(policy: Policy, history: list[Candidate]) -> set[PointId]:
    """Keep a point if it is the newest of its period and that is one of the n newest periods."""

    def age(point: Candidate) -> tuple[datetime, int]:
        return point.time, point.order

    local = {point.point: point.time.astimezone(policy.zone) for point in history}
    keys: dict[str, Callable[[datetime], object]] = {
        "hourly": lambda t: (t.date(), t.hour, t.utcoffset()),
        "daily": lambda t: t.date(),
        "weekly": lambda t: t.isocalendar()[:2],
        "monthly": lambda t: (t.year, t.month),
        "yearly": lambda t: t.year,
    }
    kept_ids = {
        point.point for point in history if point.is_protected or policy.tags & {*point.tags}
    }
    ordered = sorted(history, key=age)
    by_capture = sorted(history, key=lambda point: point.order, reverse=True)
    kept_ids |= {point.point for point in by_capture[: policy.last]}
    for rule, key in keys.items():
        newest = {key(local[point.point]): point for point in ordered}
        winners = sorted(newest.values(), key=age, reverse=True)
        kept_ids |= {point.point for point in winners[: policy.counts[rule]]}
    if policy.within is not None and ordered:
        last = max(history, key=lambda point: point.order)
        kept_ids |= {e.point for e in ordered if last.time - e.time <= policy.within}
    kept_ids = kept_ids or {point.point for point in ordered[-1:]}
    return kept_ids | {point.point for point in history if point.order == len(history) - 1}


@given(POLICIES, histories())
def test_a_policy_keeps_what_its_rules_say(policy: Policy, history: list[Candidate]) -> None:
    decisions = decide(policy, history, NOW)

    assert kept(decisions) == expected(policy, history)
    assert {item.point for item in decisions} == {item.point for item in history}


@given(POLICIES, histories())
def test_a_second_run_forgets_nothing_more(policy: Policy, history: list[Candidate]) -> None:
    first = kept(decide(policy, history, NOW))

    again = kept(decide(policy, [point for point in history if point.point in first], NOW))

    assert again == first


@given(POLICIES, histories(), st.integers(-10_000, 10_000))
def test_a_clock_that_jumps_changes_no_decision(
    policy: Policy, history: list[Candidate], days: int
) -> None:
    assert decide(policy, history, NOW + timedelta(days=days)) == decide(policy, history, NOW)


@pytest.mark.parametrize("years", [12, -12])
@pytest.mark.parametrize(
    "policy", [Policy(within=timedelta(days=7)), Policy(last=3), Policy(daily=3)]
)
def test_a_point_that_was_captured_by_a_wrong_clock_takes_the_place_of_one_at_most(
    policy: Policy, years: int
) -> None:
    times = [START + timedelta(days=n) for n in range(5)]
    times[2] += timedelta(days=366 * years)
    history = [point_at(number, moment) for number, moment in enumerate(times)]

    points = kept(decide(policy, history, NOW))

    assert {point_at(n, START).point for n in (3, 4)} <= points


def test_the_point_captured_last_stays_whatever_time_another_has() -> None:
    wrong, last = point_at(1, START + timedelta(days=5000)), point_at(2, START)

    by_count = decide(Policy(last=1), [wrong, last], NOW)
    by_period = decide(Policy(daily=1), [wrong, last], NOW)

    assert [decision.reasons for decision in by_count] == [(), ("last 1 of 1",)]
    assert [decision.reasons[-1] for decision in by_period] == ["daily 2039-09-10", "captured last"]


def test_last_and_within_follow_the_order_of_capture_when_an_older_image_is_imported() -> None:
    times = [START, START + timedelta(days=1), START - timedelta(days=400)]
    history = [point_at(number, moment) for number, moment in enumerate(times)]

    by_count = kept(decide(Policy(last=2), history, NOW))
    within = kept(decide(Policy(within=timedelta(days=7)), history, NOW))

    assert by_count == {history[1].point, history[2].point}
    assert within == {point.point for point in history}  # counted from the point captured last


def test_each_decision_names_its_rules() -> None:
    history = [point_at(n, START + timedelta(days=n)) for n in range(4)]

    decisions = decide(Policy(last=1, daily=2, monthly=1), history, NOW)

    assert [decision.reasons for decision in decisions] == [
        ("last 1 of 1", "daily 2026-01-04", "monthly 2026-01"),
        ("daily 2026-01-03",),
        (),
        (),
    ]


def test_days_begin_where_the_time_zone_says() -> None:
    late, early = START + timedelta(hours=22), START + timedelta(hours=23)
    history = [point_at(1, late), point_at(2, early)]

    utc = decide(Policy(daily=2), history, NOW)
    berlin = decide(Policy(daily=2, zone=ZoneInfo("Europe/Berlin")), history, NOW)

    assert len(kept(utc)) == 1
    assert len(kept(berlin)) == 2


def test_the_hour_that_a_clock_shows_twice_is_two_hours() -> None:
    zone = ZoneInfo("Europe/Berlin")
    first = datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    history = [point_at(1, first), point_at(2, first + timedelta(hours=1))]

    assert len(kept(decide(Policy(hourly=2, zone=zone), history, NOW))) == 2


def test_points_younger_than_the_minimum_age_stay() -> None:
    history = [point_at(5 - n, NOW - timedelta(hours=n)) for n in range(5)]

    decisions = decide(Policy(last=1, min_age=timedelta(hours=3)), history, NOW)

    assert [decision.is_kept for decision in decisions] == [True, True, True, False, False]


def test_a_point_that_is_exactly_as_old_as_within_says_stays() -> None:
    last = START + timedelta(days=9)
    ages = [timedelta(days=7, microseconds=1), timedelta(days=7), timedelta(0)]
    history = [point_at(n, last - age) for n, age in enumerate(ages)]

    decisions = decide(Policy(within=timedelta(days=7)), history, NOW)

    assert [decision.reasons for decision in decisions] == [("within",), ("within",), ()]


def test_within_goes_by_the_point_captured_last_that_is_whole() -> None:
    times = [START, START + timedelta(days=1), START + timedelta(days=9)]
    history = [point_at(n, at, is_damaged=n == 2) for n, at in enumerate(times)]

    decisions = decide(Policy(within=timedelta(days=1)), history, NOW)

    assert [decision.reasons for decision in decisions] == [
        ("damaged: forget it by its id", "within"),
        ("within",),
        ("within",),
    ]


def test_a_time_within_of_zero_is_a_rule_too() -> None:
    assert not Policy(within=timedelta(0)).keeps_nothing
    assert Policy(min_age=timedelta(days=1)).keeps_nothing
    assert not Policy(tags=frozenset("a")).keeps_nothing
    for rule in Policy().counts:
        assert not replace(Policy(), **{rule: 1}).keeps_nothing  # type: ignore[arg-type]


def test_of_points_of_one_moment_the_one_captured_later_is_the_newer() -> None:
    history = [point_at(n, START) for n in (2, 1, 3)]

    decisions = decide(Policy(last=2, daily=1), history, NOW)

    assert [decision.point for decision in decisions] == [
        point_at(n, START).point for n in (3, 2, 1)
    ]
    assert [decision.is_kept for decision in decisions] == [True, True, False]


def test_a_damaged_point_takes_no_other_ones_place() -> None:
    good, bad = point_at(1, START), point_at(2, START + timedelta(days=1), is_damaged=True)

    decisions = decide(Policy(last=1), [good, bad], NOW)

    assert [decision.reasons for decision in decisions] == [
        ("damaged: forget it by its id",),
        ("last 1 of 1",),
    ]


def test_a_damaged_point_does_not_count_as_one_that_is_kept() -> None:
    history = [
        point_at(1, START + timedelta(days=2)),
        point_at(2, START + timedelta(days=1)),
        point_at(3, START, is_damaged=True),
    ]

    decisions = decide(Policy(tags=frozenset({"release"})), history, NOW)

    assert [decision.reasons for decision in decisions[:2]] == [
        ("the newest of its VM",),
        ("captured last",),
    ]


def test_the_newest_stays_where_no_rule_keeps_any() -> None:
    history = [point_at(n, START + timedelta(days=n)) for n in range(3)]

    decisions = decide(Policy(tags=frozenset({"release"})), history, NOW)

    assert [decision.reasons for decision in decisions] == [("the newest of its VM",), (), ()]


def test_a_negative_count_is_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        Policy(last=-1)
