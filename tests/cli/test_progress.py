"""Progress: sizes in GiB, rates that make sense, lines without a terminal, documents."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from cbtfs.cli.report.meter import Meter, Unit
from cbtfs.cli.report.progress import Documents, Lines, Works
from tests.cli.run_cbtfs import Run, read_terminal
from tests.make_points import new_repository

GIB = 1 << 30


class Clock:
    """A clock that tests set."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_words_have_binary_units_percent_rate_and_time_left() -> None:
    meter = Meter("root", 100 * GIB, Unit.BYTES, 0)
    for second in range(1, 11):
        meter.advance(GIB, second)

    assert meter.words(10) == "10.0 GiB of 100 GiB, 10 %, 1.00 GiB/s, 90 s left"


def test_there_is_no_rate_in_the_first_two_seconds() -> None:
    """A cached read of 4 GiB in a millisecond is no 4 TiB/s."""
    meter = Meter("root", 100 * GIB, Unit.BYTES, 0)
    meter.advance(4 * GIB, 0.001)

    assert meter.words(1.9) == "4.00 GiB of 100 GiB, 4 %"
    assert meter.rate(2.0) == 2 * GIB


def test_a_stall_lowers_the_rate_to_zero_within_its_window() -> None:
    meter = Meter("root", 100 * GIB, Unit.BYTES, 0)
    for second in range(1, 11):
        meter.advance(GIB, second)

    assert meter.rate(20) == GIB / 2
    assert meter.rate(50) == 0
    assert meter.seconds_left(50) is None
    assert "left" not in meter.words(50)


def test_an_old_burst_is_forgotten() -> None:
    meter = Meter("root", 1000 * GIB, Unit.BYTES, 0)
    meter.advance(100 * GIB, 1)
    for second in range(2, 62):
        meter.advance(GIB, second)

    assert meter.rate(61) == pytest.approx(GIB, rel=0.05)


def test_a_hundred_percent_means_complete_and_nothing_is_complete_too() -> None:
    meter = Meter("root", 1000, Unit.BYTES, 0)
    meter.advance(999, 1)

    assert meter.percent == 99
    assert Meter("empty", 0, Unit.BYTES, 0).percent == 100


def test_a_share_has_neither_sizes_nor_a_rate() -> None:
    """Maps of disks of many TiB are marked within seconds: that is no rate of bytes."""
    meter = Meter("marking", 9000 * GIB, Unit.SHARE, 0)
    meter.advance(4500 * GIB, 10)

    assert meter.words(10) == "50 %, 10 s left"
    assert meter.document(10)["progress"]["per_second"] is None


def test_lines_appear_once_a_minute_and_never_for_short_work(clock: Clock) -> None:
    lines: list[str] = []
    works = Works(Lines(lines.append), clock)
    advance = works.start("vm root", 300 * GIB)
    short = works.start("vm swap", GIB)
    short(GIB)
    for _ in range(150):
        clock.now += 1
        advance(GIB)
    works.end()

    assert lines == [
        "vm root: 60.0 GiB of 300 GiB, 20 %, 1.00 GiB/s, 4 min left",
        "vm root: 120 GiB of 300 GiB, 40 %, 1.00 GiB/s, 3 min left",
    ]


def test_documents_appear_at_the_start_once_a_second_and_at_the_end(clock: Clock) -> None:
    lines: list[str] = []
    works = Works(Documents(lines.append), clock)
    advance = works.start("vm root", 4 * GIB)
    for _ in range(8):
        clock.now += 0.5
        advance(GIB // 2)
    documents = [json.loads(line)["progress"] for line in lines]

    assert [document["percent"] for document in documents] == [0, 25, 50, 75, 100]
    assert documents[0] == {
        "what": "vm root",
        "unit": "bytes",
        "done": 0,
        "total": 4 * GIB,
        "percent": 0,
        "per_second": None,
        "seconds_left": None,
    }
    assert documents[-2]["per_second"] == GIB
    assert documents[-2]["seconds_left"] == 1.0
    assert documents[-1]["seconds_left"] == 0.0


@pytest.mark.parametrize("is_serial", [True, False])
def test_work_that_failed_ends_with_the_command(clock: Clock, is_serial: bool) -> None:
    lines: list[str] = []
    works = Works(Documents(lines.append), clock, is_serial=is_serial)
    first = works.start("a", 10)
    first(5)
    second = works.start("b", 10)
    second(10)
    works.end()
    first(5)

    ends = [json.loads(line)["progress"] for line in lines]
    assert {(document["what"], document["done"]) for document in ends} == {
        ("a", 0),
        ("a", 5),
        ("b", 0),
    } | {("b", 10)}


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    path.write_bytes(os.urandom(1 << 20))
    return path


def _documents(err: str) -> list[dict[str, object]]:
    return [json.loads(line)["progress"] for line in err.splitlines() if line.startswith("{")]


def test_commands_print_documents_on_standard_error(run: Run, image: Path, tmp_path: Path) -> None:
    """Also under --json and --quiet, which silence the other forms."""
    ingest = ("ingest", "image", "--vm=vm", "--disk=root", image)
    taken = run(*ingest, "--progress", "json", "--json")
    restored = run("-q", "--progress=json", "restore", "vm@latest", "root", tmp_path / "back")
    pruned = run("prune", "--progress", "json")

    for done, what in ((taken, "vm root"), (restored, "root")):
        documents = _documents(done.err)
        assert (documents[0]["done"], documents[-1]["done"]) == (0, 1 << 20)
        assert {document["what"] for document in documents} == {what}
    assert taken.document["vm"] == "vm"
    assert {document["what"] for document in _documents(pruned.err)} == {
        "marking",
        "dropping",
        "rewriting",
    }


@pytest.mark.parametrize("words", [[], ["--progress=none"], ["--json"], ["-q"]])
def test_a_short_command_without_a_terminal_prints_no_progress(
    run: Run, image: Path, words: list[str]
) -> None:
    assert run("ingest", "image", "--vm=vm", "--disk=root", image, *words).err == ""


def test_a_terminal_gets_a_bar(tmp_path: Path, image: Path) -> None:
    repository = new_repository(tmp_path / "repository")
    command = ["ingest", "image", "--vm=vm", "--disk=root", str(image)]
    main, side = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "cbtfs", "--repo", str(repository), *command],
        stdout=subprocess.DEVNULL,
        stderr=side,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    ) as ingest:
        os.close(side)
        drawn = read_terminal(main)
        assert ingest.wait() == 0
    os.close(main)

    assert "vm root" in drawn
    assert "MiB" in drawn
