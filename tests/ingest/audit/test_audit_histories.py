"""Random histories of a disk with a tracker that omits some blocks; each ends with a full."""

import random
import shutil
import tempfile
from pathlib import Path
from typing import Final

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from cbtfs.core.audit import Sampling
from cbtfs.core.ids import PointId
from cbtfs.core.manifest import Manifest
from cbtfs.errors import SourceMismatch
from cbtfs.ingest.plan import Want
from tests.ingest.audit.silent_tracker import (
    ALL,
    FEW,
    a_disk,
    listed,
    suspects,
    take_silent,
    write_block,
)
from tests.ingest.fake_disks import forget, lose_catalog
from tests.make_points import MEMORY, new_repository, read_point

BLOCKS: Final = 70
PLACES = st.integers(0, BLOCKS - 1)
AUDITS = st.sampled_from([None, FEW, FEW, Sampling(0.3, 4)])
WANTS: st.SearchStrategy[Want] = st.sampled_from(["auto", "auto", "auto", "incremental"])


class Histories(RuleBasedStateMachine):
    """Writes never restore earlier content, because a miss that is undone cannot be detected."""

    def __init__(self) -> None:
        super().__init__()
        place = MEMORY if MEMORY.is_dir() else None
        self.folder = Path(tempfile.mkdtemp(prefix="cbtfs-audit-", dir=place))
        self.path = new_repository(self.folder / "repository")
        self.disk = a_disk(BLOCKS)
        self.hidden = frozenset[int]()
        self.truth: dict[PointId, bytes] = {}
        self.runs = 0

    @initialize(hidden=st.frozensets(PLACES, max_size=BLOCKS))
    def start(self, hidden: frozenset[int]) -> None:
        self.hidden = hidden
        self.take(None, "auto")

    def teardown(self) -> None:
        if self.truth:
            self.close_with_a_full()
        shutil.rmtree(self.folder)

    def take(self, audit: Sampling | None, want: Want) -> Manifest:
        self.runs += 1
        run = f"{self.runs:032x}"
        manifest = take_silent(self.path, self.disk, self.hidden, audit=audit, want=want, run=run)
        self.truth[manifest.point] = bytes(self.disk.content)
        return manifest

    def close_with_a_full(self) -> None:
        newest = self.take(ALL, "full").point
        doubted = suspects(self.path)
        points_by_id = listed(self.path)

        assert newest not in doubted
        for name, point in points_by_id.items():
            is_right = read_point(self.path, point.manifest) == {"A": self.truth[name]}
            assert is_right or name in doubted
        lose_catalog(self.path)
        assert suspects(self.path) == doubted

    @rule(block=PLACES)
    def write(self, block: int) -> None:
        write_block(self.disk, block, f"{random.Random(self.runs).random()} {self.runs} {block}")

    @rule(audit=AUDITS, want=WANTS)
    def take_a_point(self, audit: Sampling | None, want: Want) -> None:
        before = set(listed(self.path))
        try:
            manifest = self.take(audit, want)
        except SourceMismatch:
            assert want == "incremental"
            assert set(listed(self.path)) == before
            return
        if manifest.kind == "full":
            assert "change tracking missed" in manifest.reason
            self.assert_newest_is_right(manifest)

    @rule()
    def take_a_full(self) -> None:
        self.assert_newest_is_right(self.take(FEW, "full"))

    def assert_newest_is_right(self, manifest: Manifest) -> None:
        assert manifest.point not in suspects(self.path)
        assert read_point(self.path, manifest) == {"A": bytes(self.disk.content)}

    @rule(data=st.data())
    @precondition(lambda self: len(self.truth) > 1)
    def forget_a_point(self, data: st.DataObject) -> None:
        there = list(listed(self.path))
        if len(there) > 1:
            forget(self.path, data.draw(st.sampled_from(there)))

    @rule()
    def lose_the_catalog(self) -> None:
        lose_catalog(self.path)


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=15, stateful_step_count=14)


def test_a_history_can_go_wrong_unmarked_without_an_audit(tmp_path: Path) -> None:
    path, disk = new_repository(tmp_path / "repository"), a_disk(BLOCKS)
    take_silent(path, disk, audit=None)
    write_block(disk, 5, "not told")
    wrong = take_silent(path, disk, {5}, audit=None)
    take_silent(path, disk, {5}, audit=None, want="full")

    assert suspects(path) == set()
    assert read_point(path, wrong) != {"A": bytes(disk.content)}
