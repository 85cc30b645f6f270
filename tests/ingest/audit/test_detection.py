"""The audit detects missed changes as often as the formula predicts, for fixed seeds."""

import random
from collections.abc import Callable, Collection, Iterator
from math import comb
from pathlib import Path
from typing import Final

import pytest

from cbtfs.core.audit import Sampling, detection
from cbtfs.core.blockmap import Shape, Tree
from cbtfs.core.extent import Extent, coalesce
from cbtfs.core.ids import Ref
from cbtfs.ingest.audit import AuditedList, SampleAudit, audit_sample
from cbtfs.reader import Reader
from cbtfs.store.repository import writing
from tests.ingest.audit.silent_tracker import a_disk, take_silent
from tests.make_points import BLOCK, new_repository
from tests.source.fake import FakeDisk

BLOCKS: Final = 400
TRIALS: Final = 300
SPREADS: Final = 4.5
"""Allowed deviation of a count, in standard deviations; with fixed seeds the count is constant."""
SAMPLE: Final = Sampling(0.05, 20, 20)

Look = Callable[[Collection[int], Collection[int], int], SampleAudit]


@pytest.fixture
def look(tmp_path: Path) -> Iterator[Look]:
    """Return a seeded audit of a disk with listed and hidden changes."""
    path = new_repository(tmp_path / "repository")
    disk = a_disk(BLOCKS)
    manifest = take_silent(path, disk)
    before = bytes(disk.content)
    with writing(path) as repository:
        tree: Tree[Ref] = Reader(repository).disk(manifest.disks[0]).tree()

        def audit(told: Collection[int], hidden: Collection[int], seed: int) -> SampleAudit:
            now = FakeDisk(len(before))
            now.content[:] = before
            for block in (*told, *hidden):
                now.content[block * BLOCK] ^= 0xFF
            listed = list(coalesce(Extent(block * BLOCK, BLOCK) for block in told))
            shot = now.take_snapshot()
            audited = AuditedList(Shape(shot.size, BLOCK), tree, shot.size, listed)
            return audit_sample(shot, audited, SAMPLE, f"{seed}/disk", lambda: None)

        yield audit


def assert_as_likely(hits: int, probability: float) -> None:
    spread = (TRIALS * probability * (1 - probability)) ** 0.5
    assert abs(hits - TRIALS * probability) <= SPREADS * spread
    assert 0.1 < probability < 0.9  # at the extremes a count proves little


@pytest.mark.parametrize("missed", [3, 10, 30])
def test_changes_missed_anywhere_are_detected_at_the_computed_rate(look: Look, missed: int) -> None:
    told = range(100, 130)
    rest = [block for block in range(BLOCKS) if block not in told]
    hits = 0
    for trial in range(TRIALS):
        hidden = random.Random(trial).sample(rest, missed)
        hits += look(told, hidden, trial).mismatches > 0

    assert_as_likely(hits, detection(len(rest), missed, SAMPLE.least))


def test_a_hidden_share_of_the_changes_is_detected_at_the_computed_rate(look: Look) -> None:
    changes, share = 60, 0.15
    hits = 0
    for trial in range(TRIALS):
        picker = random.Random(trial)
        changed = picker.sample(range(BLOCKS), changes)
        hidden = {block for block in changed if picker.random() < share}
        hits += look([b for b in changed if b not in hidden], hidden, trial).mismatches > 0

    computed = sum(
        comb(changes, missed)
        * share**missed
        * (1 - share) ** (changes - missed)
        * detection(BLOCKS - changes + missed, missed, SAMPLE.least)
        for missed in range(changes + 1)
    )
    assert_as_likely(hits, computed)


def test_adjacent_missed_changes_are_detected_at_the_rate_of_the_random_part(
    look: Look,
) -> None:
    told, hidden = range(100, 130), range(250, 265)
    hits = 0
    for trial in range(TRIALS):
        audit = look(told, hidden, trial)
        hits += audit.mismatches > 0
    sample = audit.sample

    assert 0 < sample.weighted <= SAMPLE.least // 2
    unweighted = sample.unchanged - sample.weighted
    assert_as_likely(hits, detection(unweighted, len(hidden), SAMPLE.least - sample.weighted))


def test_every_sampled_mismatch_is_counted(look: Look) -> None:
    told, hidden = range(100, 130), range(200, 300)
    for trial in range(20):
        audit = look(told, hidden, trial)
        assert audit.mismatches == len(set(hidden) & set(audit.sample.blocks))
