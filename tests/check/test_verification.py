"""Parts that are read one by one add up to a verification of each point."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbtfs.check.verification import VerifiedParts, load_parts, save_parts
from cbtfs.cli.main import main
from cbtfs.core.ids import PointId
from cbtfs.core.sealed import seal
from tests.scenarios.repository_history import History, image
from tests.store.folders import pack_at

A, B = PointId("a" * 32), PointId("b" * 32)
DAYS = [f"2026-11-{day:02}T00:00:00Z" for day in range(1, 29)]

Check = Callable[[str], tuple[int, dict[str, Any]]]


@pytest.fixture
def history(tmp_path: Path) -> History:
    history = History(tmp_path / "repo")
    for n in range(1, 5):
        history.add(image(*range(n * 100, n * 100 + 40)), vm=f"vm{n}")
    return history


@pytest.fixture
def check(history: History, capsys: pytest.CaptureFixture[str]) -> Check:
    def check(part: str) -> tuple[int, dict[str, Any]]:
        code = main([f"--repo={history.path}", "check", "--json", "--read-data-subset", part])
        return code, json.loads(capsys.readouterr().out)

    return check


def test_all_parts_make_a_date_that_outlives_the_catalog(history: History, check: Check) -> None:
    assert set(check("1/2")[1]["verified"].values()) == {None}
    shutil.rmtree(history.path / "catalog")

    verified = check("2/2")[1]["verified"]

    assert None not in verified.values()
    shutil.rmtree(history.path / "catalog")
    assert check("0%")[1]["verified"] == verified


def test_a_point_that_came_in_between_waits_for_the_parts_it_missed(
    history: History, check: Check
) -> None:
    check("1/2")
    late = history.add(image(7))
    assert check("2/2")[1]["verified"][late] is None

    assert check("1/2")[1]["verified"][late] is not None


def test_a_part_of_other_parts_does_not_count(history: History, check: Check) -> None:
    check("1/2")
    check("2/3")

    assert set(check("2/2")[1]["verified"].values()) == {None}
    assert None not in check("1/1")[1]["verified"].values()
    assert history.expected.keys() == check("5%")[1]["verified"].keys()


def test_a_point_with_a_corrupt_chunk_is_unverified_until_its_part_is_read_again(
    history: History, check: Check
) -> None:
    pack = sorted((history.path / "packs").glob("*/*"))[0]
    part = int(pack.name[:16], 16) % 2 + 1
    before = pack.read_bytes()
    frame = pack_at(pack).trailer()[0]
    pack.write_bytes(
        before[: frame.payload_offset] + b"\0\0\0\0" + before[frame.payload_offset + 4 :]
    )

    assert [check(f"{n}/2")[0] for n in (1, 2)].count(21) == 1
    undated = _undated(check("0%"))
    assert undated

    pack.write_bytes(before)
    assert _undated(check(f"{3 - part}/2")) == undated  # others may get a later date by this
    assert None not in check(f"{part}/2")[1]["verified"].values()


def _undated(done: tuple[int, dict[str, Any]]) -> set[str]:
    return {point for point, date in done[1]["verified"].items() if date is None}


def test_a_damaged_record_of_parts_starts_again(history: History, check: Check) -> None:
    check("1/2")
    (history.path / "verified").write_bytes(b"no")

    assert set(check("2/2")[1]["verified"].values()) == {None}
    assert None not in check("1/2")[1]["verified"].values()


@given(st.lists(st.tuples(st.integers(1, 3), st.sets(st.sampled_from([A, B]))), max_size=12))
def test_a_point_is_verified_since_its_oldest_intact_part(
    runs: list[tuple[int, set[PointId]]],
) -> None:
    proven, last = VerifiedParts(3), dict[tuple[PointId, int], int]()
    read = dict[int, int]()
    for day, (part, whole) in enumerate(runs):
        proven = proven.after(part, DAYS[day], [A, B], whole)
        read[part] = day
        for point in (A, B):
            last.pop((point, part), None)
            if point in whole:
                last[point, part] = day

    expected = {}
    for point in (A, B):
        days = [last.get((point, part)) for part in (1, 2, 3)]
        if None not in days:
            expected[point] = DAYS[min(day for day in days if day is not None)]
    assert proven.verified() == expected


def test_the_record_of_parts_round_trips(tmp_path: Path) -> None:
    proven = VerifiedParts(4).after(1, DAYS[0], [A, B], [A]).after(3, DAYS[1], [A, B], [A, B])

    save_parts(tmp_path, proven)

    assert load_parts(tmp_path, 4) == proven
    assert load_parts(tmp_path, 5) == VerifiedParts(5)


@pytest.mark.parametrize(
    "change",
    [
        {"parts": 0},
        {"parts": 10**9},
        {"times": None},
        {"times": [{"part": 9, "time": DAYS[0]}]},
        {"times": [{"part": 1, "time": "soon"}]},
        {"points": [{"parts": [2], "ids": [A]}]},
        {"points": [{"parts": ["1"], "ids": [A]}]},
        {"points": [{"parts": [1], "ids": ["../x"]}]},
    ],
)
def test_a_file_that_makes_no_sense_proves_nothing(tmp_path: Path, change: dict[str, Any]) -> None:
    document = {"parts": 2, "times": [{"part": 1, "time": DAYS[0]}], "points": []}
    (tmp_path / "verified").write_bytes(seal({**document, **change}))

    assert load_parts(tmp_path, 2) == VerifiedParts(2)
