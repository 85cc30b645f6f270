"""The bench prepares its data and measures every row, in its tiny form."""

import io
import json
import os
import signal
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from cbtfs.listing import find_point
from cbtfs.reader import Reader
from cbtfs.store.repository import reading
from tests.mount.mount_process import wait_until
from tools.bench import __main__ as program
from tools.bench import plot, programs
from tools.bench.__main__ import Interrupted, publish, run_all
from tools.bench.bench import Bench
from tools.bench.content import BLOCK, Content
from tools.bench.datasets import Datasets
from tools.bench.depth import depth_rows
from tools.bench.fleet import make_fleet, vm_name
from tools.bench.holes import CacheState
from tools.bench.ingests import catalog_rows, compare_rows
from tools.bench.plot import READS, SCALE
from tools.bench.real import apply_delta, points_of, save_delta
from tools.bench.row import OURS, Row
from tools.bench.sizes import TINY

pytestmark = pytest.mark.mounts

DRAWN = {
    "reads": {"sequential read", "4 KiB random, queue 16", "64 KiB random, queue 8"},
    "scale": {"first byte after ready", "memory of a worker", "catalog per chunk"},
}
"""Panels that each plot must have."""


def tiny_bench(folder: Path) -> Bench:
    return Bench(folder, TINY, Datasets(folder, TINY))


DRAWN_GROUPS = ("read-*", "depth*", "catalog", "scale-*")
"""Groups with the rows of the plots."""


def test_rows_of_plots_are_measured_and_plots_are_reproducible(tmp_path: Path) -> None:
    run, into = measured(tmp_path, DRAWN_GROUPS)
    first = [(into / name).read_bytes() for name in (READS, SCALE)]
    assert plot.main([str(into / "run.json")]) == 0

    assert [(into / name).read_bytes() for name in (READS, SCALE)] == first
    for figure, expected in DRAWN.items():
        curves = [row["curve"] for row in run["rows"] if row["curve"] is not None]
        panels = {curve["panel"].partition("|")[0] for curve in curves if curve["figure"] == figure}
        assert expected <= panels


def test_every_other_row_is_measured(tmp_path: Path) -> None:
    groups = [
        name
        for name in program.GROUPS
        if not any(fnmatch(name, pattern) for pattern in DRAWN_GROUPS)
    ]

    run, _ = measured(tmp_path, groups)

    assert run["left_out"].keys() == {"ways-debian"}
    copies = {(row["name"], row["cache"]) for row in run["rows"] if "sparse disk" in row["name"]}
    assert len(copies) == 4 * len(CacheState)


def measured(folder: Path, groups: Sequence[str]) -> tuple[dict[str, Any], Path]:
    """Measure and publish groups; return the document of the run and its directory."""
    bench, into = folder / "bench", folder / "published"
    bench.mkdir()
    printed = io.StringIO()

    publish(run_all(tiny_bench(bench), groups, printed), into)

    run: dict[str, Any] = json.loads((into / "run.json").read_bytes())
    assert run["rows"]
    for row in run["rows"]:
        assert "cbtfs" in row["contenders"]
        assert row["name"] in printed.getvalue()
        assert row["name"] in (into / "table.md").read_text()
    assert not list(bench.rglob("root")), "a mount point is left"
    return run, into


def test_an_interrupted_run_keeps_the_measured_rows(
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
        run = run_all(tiny_bench(tmp_path), ["*"], io.StringIO())
    finally:
        signal.signal(signal.SIGTERM, before)

    assert [row["name"] for row in run["rows"]] == ["first"]
    assert run["left_out"] == {"remaining rows": "the run was interrupted"}


def test_an_interrupted_program_leaves_no_process(tmp_path: Path) -> None:
    pidfile = tmp_path / "pid"

    def interrupt(*_: object) -> None:
        if pidfile.exists() and pidfile.read_text().strip():
            raise Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
    try:
        with pytest.raises(Interrupted):
            programs.run(["sh", "-c", 'sleep 1000 & echo $! > "$0"; wait', pidfile])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

    process = int(pidfile.read_text())
    assert wait_until(lambda: not _is_running(process))


def _is_running(process: int) -> bool:
    """Whether a process runs; a zombie that PID 1 has not reaped yet does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_replayed_deltas_restore_the_real_disk(tmp_path: Path) -> None:
    before, after, replayed = (tmp_path / name for name in ("before", "after", "replayed"))
    content = Content("seed")
    first = [content.block("text"), bytes(BLOCK), content.block("random"), content.block("text")]
    second = [first[0], content.block("random"), bytes(BLOCK), first[3]]
    before.write_bytes(b"".join(first))
    after.write_bytes(b"".join(second))
    replayed.write_bytes(b"".join(first))

    save_delta(tmp_path / "1.delta", before, after)
    changed = apply_delta(tmp_path, 1, replayed)

    assert changed == [1, 2]
    assert replayed.read_bytes() == after.read_bytes()
    assert points_of(tmp_path) == 2


def test_the_points_of_a_fleet_have_the_content_of_its_disks(tmp_path: Path) -> None:
    disk = make_fleet(tmp_path, 6, 3)
    disk.save(tmp_path / "disk.raw")

    with reading(tmp_path / "repository") as repository:
        point = find_point(repository, f"{vm_name(0)}@latest")
        assert len(repository.points.ids()) == 6
        reader = Reader(repository).disk(point.manifest.disks[0])
        for block in disk.blocks:
            assert reader.read(block * BLOCK, BLOCK) == disk.blocks[block]
    with (tmp_path / "disk.raw").open("rb") as file:
        assert all(os.pread(file.fileno(), BLOCK, n * BLOCK) == d for n, d in disk.blocks.items())


def test_the_same_seed_gives_the_same_content() -> None:
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


def test_the_last_of_many_points_needs_as_many_lookups_as_the_first(tmp_path: Path) -> None:
    rows = list(depth_rows(tiny_bench(tmp_path)))

    counts = set(rows[0].facts.values())
    assert len(counts) == 1
    assert counts.pop() > 0
    assert all(sample > 0 for row in rows for samples in row.samples.values() for sample in samples)


def test_the_catalog_has_a_plausible_number_of_bytes_per_chunk(tmp_path: Path) -> None:
    bench = tiny_bench(tmp_path)
    blocks = TINY.disk // BLOCK

    full, deltas = list(catalog_rows(bench))

    assert full.facts["chunks"] == blocks
    assert deltas.facts["chunks"] == blocks + TINY.deltas * (blocks // 100)
    assert 50 < full.median(OURS) < 500


def test_an_unchanged_disk_is_scanned(tmp_path: Path) -> None:
    rows = list(compare_rows(tiny_bench(tmp_path)))

    assert len(rows) == 2
    assert all(row.median(OURS) > 0 for row in rows)
    assert all(row.ratio("BLAKE3 alone, two threads") > 0 for row in rows)
