"""Numbers of files of guests, shared by workers: the newest are known to all of them."""

import copy
import random
import threading

import pytest

from cbtfs.mount.guest_numbers import GuestNumbers, NumberForgotten, guest_number, is_guest

TOP = 1 << 20
"""Number of a directory `files`, which is in no table."""


def worker_of(numbers: GuestNumbers) -> GuestNumbers:
    """Return the table as a process has it that was forked now."""
    forked = copy.copy(numbers)
    forked._lock = threading.Lock()
    forked._known = [dict(half) for half in numbers._known]
    forked._read = [*numbers._read]
    return forked


def test_a_number_depends_on_the_file_and_not_on_its_name() -> None:
    number = guest_number("p", "root", 5, "/a")

    assert is_guest(number)
    assert number == guest_number("p", "root", 5, "/b")
    assert (
        len({number, guest_number("p", "root", 6, "/a"), guest_number("q", "root", 5, "/a")}) == 3
    )
    assert guest_number("p", "", 0, "/a\udcff") != guest_number("p", "", 0, "/b")
    assert not is_guest(TOP)


@pytest.mark.parametrize("seed", range(3))
def test_all_workers_know_the_newest_numbers_and_the_directories_above(seed: int) -> None:
    source, capacity = random.Random(seed), 40
    table = GuestNumbers(capacity)
    workers = [worker_of(table) for _ in range(3)]
    paths: dict[int, list[str]] = {TOP: []}
    newest: list[int] = []
    for step in range(600):
        directory = source.choice([TOP, *(n for n in newest[-8:] if len(paths[n]) < 9)])
        names = [f"{step}-{index}\udcff" for index in range(source.randrange(1, 4))]
        files = [(guest_number("p", "v", 1 + step * 8 + i, ""), n) for i, n in enumerate(names)]
        source.choice(workers).add(directory, files)
        for number, name in files:
            paths[number] = [*paths[directory], name]
            newest.append(number)
        worker = source.choice(workers)
        for number in newest[-10:]:
            assert worker.places(number) == (TOP, paths[number])
    with pytest.raises(NumberForgotten):
        workers[0].places(newest[0])
    with pytest.raises(NumberForgotten):
        workers[0].places(guest_number("p", "v", 1 << 40, ""))
    assert all(len(half) < 4 * capacity for half in workers[0]._known)
