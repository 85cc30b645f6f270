"""The rules that select the point of a name, each against a linear search."""

from datetime import UTC, datetime, timedelta
from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbtfs.core.dated import (
    Dated,
    before_latest,
    latest,
    latest_good,
    nearest,
    newest_until,
    out_of_order,
)
from cbtfs.core.ids import PointId

START = datetime(2026, 1, 1, tzinfo=UTC)
DAYS = st.integers(-5, 5)


def _dated(rows: list[tuple[int, bool]], orders: list[int]) -> list[Dated]:
    return [
        Dated(PointId(f"{order:032x}"), order, START + timedelta(days=day), is_clocked)
        for order, (day, is_clocked) in zip(orders, rows, strict=True)
    ]


def histories(most: int) -> st.SearchStrategy[list[Dated]]:
    """Generate points of one VM within few days, so that times repeat and go backwards."""
    return st.lists(st.tuples(DAYS, st.booleans()), max_size=most).flatmap(
        lambda rows: st.permutations(range(1, len(rows) + 1)).map(lambda o: _dated(rows, list(o)))
    )


def _latest(points: list[Dated]) -> Dated | None:
    """Apply the rule of the documentation step by step."""
    last_by_clock = None
    for point in points:
        if point.is_clocked and (last_by_clock is None or point.order > last_by_clock.order):
            last_by_clock = point
    newest = last_by_clock
    for point in points:
        if point.is_clocked:
            continue
        if newest is None:
            newest = point
        elif newest is last_by_clock:
            if point.time > newest.time:
                newest = point
        elif point.time > newest.time or (point.time == newest.time and point.order > newest.order):
            newest = point
    return newest


@given(histories(8))
def test_latest_is_the_last_by_a_clock_or_a_newer_one_that_was_given(points: list[Dated]) -> None:
    assert latest(points) == _latest(points)


@given(histories(8), st.integers(0, 9))
def test_latest_and_a_number_counts_back_by_time(points: list[Dated], back: int) -> None:
    expected = _latest(points)
    for _ in range(back):
        older = None
        for point in points:
            if expected is None or (point.time, point.order) >= (expected.time, expected.order):
                continue
            if older is None or (point.time, point.order) > (older.time, older.order):
                older = point
        expected = older

    assert before_latest(points, back) == expected


@given(histories(8), DAYS, st.integers(-1, 1))
def test_a_time_means_the_newest_point_that_is_not_later(
    points: list[Dated], day: int, tick: int
) -> None:
    last = START + timedelta(days=day, microseconds=tick)
    expected = None
    for point in points:
        if point.time > last:
            continue
        if expected is None or (point.time, point.order) > (expected.time, expected.order):
            expected = point

    assert newest_until(points, last) == expected


@given(histories(8), st.sets(st.integers(1, 8)))
def test_good_is_the_latest_of_the_good_points(points: list[Dated], good: set[int]) -> None:
    expected = _latest([point for point in points if point.order in good])

    assert latest_good(points, lambda point: point.order in good) == expected


@given(histories(8), DAYS)
def test_no_point_is_nearer_than_the_nearest(points: list[Dated], day: int) -> None:
    moment = START + timedelta(days=day, hours=11)
    closest = nearest(points, moment)

    assert (closest is None) == (not points)
    assert closest is None or all(
        abs(closest.time - moment) <= abs(point.time - moment) for point in points
    )


def _is_in_step(points: tuple[Dated, ...]) -> bool:
    ordered = sorted(points, key=lambda point: point.order)
    return all(a.time <= b.time for a, b in pairwise(ordered))


@given(histories(7))
def test_out_of_order_are_the_fewest_points_that_contradict(points: list[Dated]) -> None:
    def weight(kept: tuple[Dated, ...]) -> tuple[int, int]:
        return sum(point.is_clocked for point in kept), len(kept)

    sets = [c for n in range(len(points) + 1) for c in combinations(points, n) if _is_in_step(c)]
    flagged = out_of_order(points)
    kept = tuple(point for point in points if point.point not in flagged)

    assert _is_in_step(kept)
    assert weight(kept) == max(weight(subset) for subset in sets)


@pytest.mark.parametrize(
    ("years", "flagged"),
    [
        ([2026, 2099, 2027], [1]),
        ([2026, 1970, 2027], [1]),
        ([2026, 2027, 1970], [2]),
        ([2099, 2026], [0]),
        ([2026, 2026], []),
        ([], []),
    ],
)
def test_one_wrong_clock_flags_one_point(years: list[int], flagged: list[int]) -> None:
    points = [
        Dated(PointId(f"{n:032x}"), n, datetime(year, 1, 1, tzinfo=UTC))
        for n, year in enumerate(years)
    ]

    assert out_of_order(points) == {points[n].point for n in flagged}


def test_an_import_and_a_wrong_clock_do_not_become_latest_for_ever() -> None:
    def at(order: int, year: int, is_clocked: bool = True) -> Dated:
        moment = datetime(year, 1, 1, tzinfo=UTC)
        return Dated(PointId(f"{order:032x}"), order, moment, is_clocked)

    a, wrong, b, old, new = at(1, 2026), at(2, 2099), at(3, 2027), at(4, 2020, False), at(5, 2028)

    assert latest([a]) == a
    assert latest([a, wrong]) == wrong
    assert latest([a, wrong, b]) == b
    assert latest([a, wrong, b, old]) == b
    assert latest([a, wrong, b, old, new]) == new
