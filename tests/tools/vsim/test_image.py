"""Sparse images: differences and copies, compared with plain bytes."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tools.vsim.model.image import (
    GRAIN,
    Drift,
    catch_up,
    copy_image,
    data_spans,
    overwrite_image,
    punch,
    read_padded,
)
from tools.vsim.model.span import Span, merged, overlaid

PAGES = 12
SIZE = PAGES * GRAIN
STEPS = st.lists(st.tuples(st.integers(0, PAGES - 1), st.sampled_from("xyz0-")), max_size=8)
SPANS = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 9)), max_size=6)


def play(path: Path, steps: list[tuple[int, str]]) -> None:
    """Write a page of x, y or z, a page of zeros, or punch the page out."""
    with path.open("r+b") as file:
        for page, what in steps:
            if what == "-":
                punch(file.fileno(), Span(page * GRAIN, (page + 1) * GRAIN))
            else:
                data = bytes(GRAIN) if what == "0" else what.encode() * GRAIN
                os.pwrite(file.fileno(), data, page * GRAIN)


def allocated(path: Path) -> list[Span]:
    with path.open("rb") as file:
        return list(data_spans(file.fileno(), SIZE))


def test_catch_up_reports_exactly_the_differences(tmp_path: Path) -> None:
    @settings(max_examples=25, deadline=None)
    @given(STEPS, STEPS)
    def holds(before: list[tuple[int, str]], after: list[tuple[int, str]]) -> None:
        live, copy = tmp_path / "live", tmp_path / "copy"
        for path in (live, copy):
            path.write_bytes(b"")
            os.truncate(path, SIZE)
            play(path, before)
        was = {
            page
            for span in allocated(copy)
            for page in range(span.start // GRAIN, span.end // GRAIN)
        }
        play(live, after)
        old, new = copy.read_bytes(), live.read_bytes()
        drift = catch_up(live, copy, SIZE)
        reported = {
            span.start // GRAIN + n
            for span in (*drift.written, *drift.discarded)
            for n in range(span.length // GRAIN)
        }
        differing = {
            page
            for page in range(PAGES)
            if old[page * GRAIN : (page + 1) * GRAIN] != new[page * GRAIN : (page + 1) * GRAIN]
        }
        zeroed = {page for page, what in after if what == "0"} - was

        assert copy.read_bytes() == new
        assert allocated(copy) == allocated(live)
        assert differing <= reported <= differing | zeroed
        assert catch_up(live, copy, SIZE).written == ()

    holds()


def test_holes_smaller_than_a_unit_stay_allocated(tmp_path: Path) -> None:
    unit = 4 * GRAIN

    @settings(max_examples=25, deadline=None)
    @given(STEPS, STEPS)
    def holds(before: list[tuple[int, str]], after: list[tuple[int, str]]) -> None:
        live, copy = tmp_path / "live", tmp_path / "copy"
        for path in (live, copy):
            path.write_bytes(b"")
            os.truncate(path, SIZE)
            play(path, before)
        play(live, after)
        had, has = pages_of(copy), pages_of(live)
        old, new = copy.read_bytes(), live.read_bytes()
        drift = catch_up(live, copy, SIZE, unit)
        freed = {page for span in drift.discarded for page in range(PAGES) if touches(span, page)}

        assert copy.read_bytes() == new
        full = {
            page for page in range(PAGES) if not has & set(range(page // 4 * 4, page // 4 * 4 + 4))
        }
        assert pages_of(copy) == (had - full) | has
        assert freed <= full
        reported = {
            page
            for span in (*drift.written, *drift.discarded)
            for page in range(PAGES)
            if touches(span, page)
        }
        differing = {
            p for p in range(PAGES) if old[p * GRAIN :][:GRAIN] != new[p * GRAIN :][:GRAIN]
        }
        assert differing <= reported
        assert catch_up(live, copy, SIZE, unit) == Drift((), ())

    holds()


def pages_of(path: Path) -> set[int]:
    """Return the allocated pages of the file."""
    return {page for span in allocated(path) for page in range(PAGES) if touches(span, page)}


def touches(span: Span, page: int) -> bool:
    return span.start < (page + 1) * GRAIN and page * GRAIN < span.end


@pytest.mark.parametrize("copier", [copy_image, overwrite_image])
def test_copies_have_the_same_bytes_and_holes(tmp_path: Path, copier: object) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    for path, steps in ((source, [(1, "x"), (5, "y")]), (target, [(2, "z"), (5, "z")])):
        path.write_bytes(b"")
        os.truncate(path, SIZE)
        play(path, steps)
    copier(source, target, SIZE)  # type: ignore[operator]

    assert target.read_bytes() == source.read_bytes()
    assert allocated(target) == allocated(source)


def test_bytes_past_the_end_read_as_zeros(tmp_path: Path) -> None:
    (tmp_path / "short").write_bytes(b"abc")
    with (tmp_path / "short").open("rb") as file:
        assert read_padded(file.fileno(), 1, 5) == b"bc\0\0\0"


@given(SPANS, SPANS)
def test_overlaid_spans_are_the_union_of_both(
    left: list[tuple[int, int]], right: list[tuple[int, int]]
) -> None:
    sides = [
        list(merged(Span(start, start + length) for start, length in side))
        for side in (left, right)
    ]
    covered: list[set[int]] = [set(), set()]
    position = 0
    for piece, *flags in overlaid(*sides):
        assert position <= piece.start < piece.end
        position = piece.end
        for side, flag in enumerate(flags):
            if flag:
                covered[side] |= set(range(piece.start, piece.end))

    assert covered == [{n for span in side for n in range(*span)} for side in sides]
