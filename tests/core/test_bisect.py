"""The search of `cbtfs bisect` against a linear search."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbtfs.core.bisect import Search, result_of


@st.composite
def _histories(draw: st.DrawFn) -> tuple[list[bool], frozenset[int]]:
    """Points that pass and then fail, and points between the ends that cannot be tested."""
    count = draw(st.integers(2, 300))
    first_bad = draw(st.integers(1, count - 1))
    skipped = draw(st.frozensets(st.integers(1, max(count - 2, 1)), max_size=count))
    return [index < first_bad for index in range(count)], skipped & set(range(1, count - 1))


@given(_histories(), st.booleans())
def test_the_candidates_are_those_of_a_linear_search(
    history: tuple[list[bool], frozenset[int]], are_known: bool
) -> None:
    passes, skipped = history
    tested = [index for index in range(len(passes)) if index not in skipped]
    last_good = max(index for index in tested if passes[index])
    first_bad = min(index for index in tested if not passes[index])

    search = Search(0, len(passes) - 1, skipped if are_known else frozenset())
    runs = 0
    while (index := search.next()) is not None:
        assert index not in search.skipped
        is_skip = index in skipped
        search = search.after(index, "skip" if is_skip else "good" if passes[index] else "bad")
        runs += 1

    assert (search.good, search.bad) == (last_good, first_bad)
    assert search.candidates == list(range(last_good + 1, first_bad + 1))
    assert runs <= len(passes)


@pytest.mark.parametrize("count", [2, 3, 4, 5, 999, 1000])
def test_both_ends_and_the_search_take_twelve_runs_for_a_thousand_points(count: int) -> None:
    for first_bad in range(1, count):
        search, runs = Search(0, count - 1), 2
        while (index := search.next()) is not None:
            search = search.after(index, "good" if index < first_bad else "bad")
            runs += 1

        assert search.candidates == [first_bad]
        assert runs <= 2 + math.ceil(math.log2(max(count - 1, 1))) <= 12


def test_a_cluster_of_skipped_points_costs_few_runs() -> None:
    """Half of 1,000 points cannot be tested, and the change is outside of that half."""
    search, runs = Search(0, 999), 0
    while (index := search.next()) is not None:
        search = search.after(
            index, "skip" if 300 <= index < 800 else "good" if index < 900 else "bad"
        )
        runs += 1

    assert search.candidates == [900]
    assert runs <= 16


@pytest.mark.parametrize(
    ("code", "result"),
    [
        (0, "good"),
        *((code, "bad") for code in (1, 2, 124, 126, 127)),
        (125, "skip"),
        *((code, None) for code in (128, 129, 137, 255)),
    ],
)
def test_exit_codes_mean_what_they_mean_to_git(code: int, result: str | None) -> None:
    assert result_of(code) == result


def test_a_search_without_a_good_point_before_the_bad_one_is_refused() -> None:
    with pytest.raises(ValueError, match="not before"):
        Search(3, 3)
    with pytest.raises(ValueError, match="not between"):
        Search(0, 3).after(3, "good")
