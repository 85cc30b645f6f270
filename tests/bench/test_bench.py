"""The bench prepares its data and measures: small, and without asking how fast it is."""

from pathlib import Path

from tools.bench.bench import Bench
from tools.bench.content import BLOCK, Content
from tools.bench.depth import depth_rows
from tools.bench.ingests import catalog_rows, compare_rows
from tools.bench.row import OURS
from tools.bench.sizes import TINY
from tools.bench.stock import Stock


def tiny_bench(folder: Path) -> Bench:
    return Bench(folder, TINY, Stock(folder, TINY), before=None)


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
    (row,) = compare_rows(tiny_bench(tmp_path))

    assert row.median(OURS) > 0
    assert row.ratio("BLAKE3 alone, two threads") > 0
