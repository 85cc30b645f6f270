"""The bench prepares its data and measures: small, and without asking how fast it is."""

import io
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from cbtfs.listing import find_point
from cbtfs.reader import Reader
from cbtfs.store.repository import reading
from tests.mount.support import wait_until
from tools.bench import __main__ as program
from tools.bench import plot, programs
from tools.bench.__main__ import Ended, publish, run_all
from tools.bench.bench import Bench
from tools.bench.content import BLOCK, Content
from tools.bench.depth import depth_rows
from tools.bench.fleet import make_fleet, vm_name
from tools.bench.ingests import catalog_rows, compare_rows
from tools.bench.plot import READS, SCALE
from tools.bench.real import apply_delta, points_of, save_delta
from tools.bench.row import OURS, Row
from tools.bench.sizes import TINY
from tools.bench.stock import Stock

pytestmark = pytest.mark.mounts

DRAWN = {
    "reads": {"in sequence", "4 KiB at random, queue 16", "64 KiB at random, queue 8"},
    "scale": {"first byte after ready", "memory of a worker", "catalog for each chunk"},
}
"""What must stand in the plots."""


def tiny_bench(folder: Path) -> Bench:
    return Bench(folder, TINY, Stock(folder, TINY))


def test_every_row_is_measured_and_the_plots_are_drawn_from_what_was_written_down(
    tmp_path: Path,
) -> None:
    folder, into = tmp_path / "bench", tmp_path / "published"
    folder.mkdir()
    printed = io.StringIO()

    publish(run_all(tiny_bench(folder), ["*"], printed), into)
    found = json.loads((into / "run.json").read_bytes())
    first = [(into / name).read_bytes() for name in (READS, SCALE)]
    assert plot.main([str(into / "run.json")]) == 0

    assert found["left_out"].keys() == {"ways-debian"}
    assert [(into / name).read_bytes() for name in (READS, SCALE)] == first
    for row in found["rows"]:
        assert "cbtfs" in row["contenders"]
        assert row["name"] in printed.getvalue()
        assert row["name"] in (into / "table.md").read_text()
    for figure, wanted in DRAWN.items():
        curves = [row["curve"] for row in found["rows"] if row["curve"] is not None]
        panels = {each["panel"].partition("|")[0] for each in curves if each["figure"] == figure}
        assert wanted <= panels
    assert not list(folder.rglob("root")), "nothing stays mounted"


def test_a_run_that_is_told_to_end_keeps_what_it_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = Row("first", "s", False, "-", {OURS: [1.0]})

    def rows(_: Bench) -> Iterator[Row]:
        yield row
        os.kill(os.getpid(), signal.SIGTERM)
        yield row

    monkeypatch.setattr(program, "GROUPS", {"first": rows, "second": rows})
    before = signal.signal(signal.SIGTERM, program.end)
    try:
        found = run_all(tiny_bench(tmp_path), ["*"], io.StringIO())
    finally:
        signal.signal(signal.SIGTERM, before)

    assert [each["name"] for each in found["rows"]] == ["first"]
    assert found["left_out"] == {"the rest": "the run was told to end"}


def test_a_program_that_is_given_up_leaves_nothing_running(tmp_path: Path) -> None:
    told = tmp_path / "process"

    def give_up(*_: object) -> None:
        if told.exists() and told.read_text().strip():
            raise Ended

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
    try:
        with pytest.raises(Ended):
            programs.run(["sh", "-c", 'sleep 1000 & echo $! > "$0"; wait', told])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

    process = int(told.read_text())
    assert wait_until(lambda: not _is_running(process))


def _is_running(process: int) -> bool:
    """Whether it has not ended; PID 1 may take its time to notice that it has."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_real_disk_is_played_back_as_it_was(tmp_path: Path) -> None:
    before, after, played = (tmp_path / name for name in ("before", "after", "played"))
    content = Content("seed")
    first = [content.block("text"), bytes(BLOCK), content.block("random"), content.block("text")]
    second = [first[0], content.block("random"), bytes(BLOCK), first[3]]
    before.write_bytes(b"".join(first))
    after.write_bytes(b"".join(second))
    played.write_bytes(b"".join(first))

    save_delta(tmp_path / "1.delta", before, after)
    changed = apply_delta(tmp_path, 1, played)

    assert changed == [1, 2]
    assert played.read_bytes() == after.read_bytes()
    assert points_of(tmp_path) == 2


def test_the_disks_of_a_fleet_hold_what_their_points_show(tmp_path: Path) -> None:
    disk = make_fleet(tmp_path, 6, 3)
    disk.save(tmp_path / "disk.raw")

    with reading(tmp_path / "repository") as repository:
        point = find_point(repository, f"{vm_name(0)}@latest")
        assert len(repository.points.ids()) == 6
        shown = Reader(repository).disk(point.manifest.disks[0])
        for block in disk.blocks:
            assert shown.read(block * BLOCK, BLOCK) == disk.blocks[block]
    with (tmp_path / "disk.raw").open("rb") as file:
        assert all(os.pread(file.fileno(), BLOCK, n * BLOCK) == d for n, d in disk.blocks.items())


def test_content_is_the_same_for_the_same_seed() -> None:
    first, second = Content("seed"), Content("seed")

    assert first.kinds(TINY.disk) == second.kinds(TINY.disk)
    assert first.block("text") == second.block("text")
    assert first.block("random") == second.block("random")
    assert first.block("text") != second.block("random")


def test_half_of_the_mixed_disk_is_zeros_and_a_quarter_text() -> None:
    kinds = Content("seed").kinds(TINY.disk)

    assert len(kinds) == TINY.disk // BLOCK
    assert kinds.count("zero") * 2 == len(kinds)
    assert kinds.count("text") * 4 == len(kinds)


def test_the_last_of_many_points_takes_as_many_lookups_as_the_first(tmp_path: Path) -> None:
    rows = list(depth_rows(tiny_bench(tmp_path)))

    counts = set(rows[0].facts.values())
    assert len(counts) == 1
    assert counts.pop() > 0
    assert all(sample > 0 for row in rows for each in row.samples.values() for sample in each)


def test_a_catalog_takes_a_plausible_number_of_bytes_for_each_chunk(tmp_path: Path) -> None:
    bench = tiny_bench(tmp_path)
    blocks = TINY.disk // BLOCK

    full, deltas = list(catalog_rows(bench))

    assert full.facts["chunks"] == blocks
    assert deltas.facts["chunks"] == blocks + TINY.deltas * (blocks // 100)
    assert 50 < full.median(OURS) < 500


def test_a_disk_that_did_not_change_is_compared(tmp_path: Path) -> None:
    rows = list(compare_rows(tiny_bench(tmp_path)))

    assert len(rows) == 2
    assert all(row.median(OURS) > 0 for row in rows)
    assert all(row.ratio("BLAKE3 alone, two threads") > 0 for row in rows)
