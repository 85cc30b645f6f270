import os
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbtfs.core.ids import PointId
from cbtfs.mount import open_counts
from cbtfs.mount.open_counts import OpenCounts, TooManyOpen

pytestmark = pytest.mark.mounts

POINTS = [PointId(f"{number:032x}") for number in (1, 256, 1 << 100, (1 << 128) - 1)]


@given(st.lists(st.tuples(st.booleans(), st.sampled_from(POINTS))))
def test_a_point_is_listed_while_it_has_open_files(steps: list[tuple[bool, PointId]]) -> None:
    counts, table = Counter[PointId](), OpenCounts()
    for is_open, point in steps:
        if is_open:
            table.add(point)
            counts[point] += 1
        else:
            table.remove(point)
            counts[point] = max(counts[point] - 1, 0)

        assert table.points() == {point for point in POINTS if counts[point]}


def test_counts_of_several_processes_add_up() -> None:
    table = OpenCounts()
    children = []
    for _ in range(4):
        child = os.fork()
        if child == 0:
            for _ in range(500):
                table.add(POINTS[0])
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)

    for _ in range(1999):
        table.remove(POINTS[0])
    assert table.points() == {POINTS[0]}
    table.remove(POINTS[0])
    assert table.points() == set()


def test_a_full_table_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_counts, "_SLOTS", 2)
    table = OpenCounts()
    for point in POINTS[:2]:
        table.add(point)

    with pytest.raises(TooManyOpen):
        table.add(POINTS[2])
    table.remove(POINTS[0])
    table.add(POINTS[2])
    assert table.points() == set(POINTS[1:3])
