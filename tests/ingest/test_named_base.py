"""The base of an ingest is the point that the user names, and no other."""

import random
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cbtfs.core.audit import Sampling
from cbtfs.core.ids import PointId
from cbtfs.core.manifest import Manifest, PointState
from cbtfs.core.reasons import FullReason
from cbtfs.errors import ChangeTrackingUnusable
from cbtfs.ingest.baseline import NamedBase
from cbtfs.ingest.inputs import PointOptions
from cbtfs.ingest.plan import Want
from cbtfs.prune.prune import prune
from cbtfs.prune.select import PruneLimits
from cbtfs.source.base import DiskSource
from cbtfs.store.repository import reading, writing
from tests.ingest.fake_disks import Untracked, disk_of, forget, ingest, ingest_into, with_list
from tests.make_points import BLOCK, EPOCH, new_repository, read_point

BLOCKS = 66
SIZE = BLOCKS * BLOCK + 17


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return new_repository(tmp_path / "repository")


def content_of(seed: int) -> bytes:
    return random.Random(seed).randbytes(SIZE)


def changes_between(old: bytes, new: bytes) -> list[tuple[int, int]]:
    """Return the blocks of *new* that differ from *old*, as (start, length)."""
    starts = range(0, len(new), BLOCK)
    return [
        (at, min(BLOCK, len(new) - at))
        for at in starts
        if old[at : at + BLOCK] != new[at : at + BLOCK]
    ]


@dataclass
class Branches:
    """A repository and what each of its points must read as."""

    path: Path
    contents: dict[PointId, bytes] = field(default_factory=dict)
    retained: list[Manifest] = field(default_factory=list)

    def take(
        self,
        content: bytes,
        base: Manifest | None = None,
        *,
        vm: str = "vm",
        label: str = "A",
        want: Want = "auto",
        hidden: int = 0,
        audit: Sampling | None = None,
        seconds: int | None = None,
    ) -> Manifest:
        """Take a point; its list has all changes since *base*, but for the first *hidden* ones."""
        source: DiskSource = disk_of(content).take_snapshot()
        if base is None:
            source = Untracked(source)
        else:
            changes = changes_between(self.contents[base.point], content)
            source = with_list(source, changes[hidden:])
        named = None if base is None else NamedBase(base.name, base.point)
        moment = EPOCH + timedelta(seconds=len(self.contents) if seconds is None else seconds)
        options = PointOptions(moment, want, audit, base=named)
        with writing(self.path) as repository:
            manifest = ingest_into(repository, {label: source}, vm=vm, options=options)
        self.contents[manifest.point] = content
        self.retained.append(manifest)
        return manifest

    def assert_right(self) -> None:
        for manifest in self.retained:
            [disk] = read_point(self.path, manifest).values()
            is_right = disk == self.contents[manifest.point]  # pytest would show all bytes
            assert is_right, manifest.name

    def suspects(self) -> set[PointId]:
        disk = self.retained[0].disks[0].id
        with reading(self.path) as repository:
            states = {m.point: repository.points.load_state(m.point)[0] for m in self.retained}
        return {point for point, state in states.items() if state.suspects(disk)}


def written(content: bytes, seed: int) -> bytes:
    """Return *content* with three blocks rewritten."""
    picker, new = random.Random(seed), bytearray(content)
    for block in picker.sample(range(BLOCKS), 3):
        new[block * BLOCK : block * BLOCK + 9] = picker.randbytes(9)
    return bytes(new)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["named", "named", "named", "forget", "prune", "default"]),
        st.integers(0, 100),
        st.integers(0, 1000),
    ),
    min_size=1,
    max_size=10,
)


@settings(max_examples=10)
@given(steps=STEPS)
def test_every_point_of_a_tree_of_bases_reads_like_its_disk(
    steps: list[tuple[str, int, int]],
) -> None:
    with TemporaryDirectory() as folder:
        branches = Branches(new_repository(Path(folder) / "repository"))
        branches.take(content_of(0))
        every = list(branches.retained)
        for action, choice, seed in steps:
            if action == "forget" and len(branches.retained) > 1:
                gone = branches.retained.pop(choice % len(branches.retained))
                forget(branches.path, gone.point)
            elif action == "prune":
                with writing(branches.path) as repository:
                    prune(repository, PruneLimits())
            else:
                base = every[choice % len(every)]
                content = written(branches.contents[base.point], seed)
                named = base if action == "named" else None
                manifest = branches.take(content, named)
                every.append(manifest)
                assert (manifest.kind == "incremental") == (named in branches.retained)
                if manifest.kind == "incremental":
                    assert manifest.disks[0].parent == base.point
        branches.assert_right()


def test_a_list_is_trusted_for_an_older_base(path: Path) -> None:
    branches = Branches(path)
    old = branches.take(content_of(1))
    branches.take(content_of(2))

    third = branches.take(written(content_of(1), 3), old)

    assert third.kind == "incremental"
    assert third.disks[0].parent == old.point
    assert third.disks[0].counts.read_bytes == 3 * BLOCK
    branches.assert_right()


def test_the_default_base_stays_the_point_captured_last(path: Path) -> None:
    branches = Branches(path)
    old = branches.take(content_of(1))
    branches.take(content_of(2))
    newest = branches.take(written(content_of(1), 3), old)

    source = with_list(disk_of(branches.contents[newest.point]).take_snapshot(), [])
    manifest = ingest(path, {"A": source})

    assert manifest.kind == "incremental"
    assert manifest.disks[0].parent == newest.point


def test_a_base_of_another_vm_is_refused(path: Path) -> None:
    branches = Branches(path)
    other = branches.take(content_of(1), vm="other")
    branches.take(content_of(2))

    manifest = branches.take(content_of(1), other)

    assert manifest.disks[0].full_reason == FullReason.BASE_UNSUITABLE
    assert "another VM, other" in manifest.reason
    branches.assert_right()


def test_a_base_without_the_disk_is_refused(path: Path) -> None:
    branches = Branches(path)
    branches.take(content_of(1))
    other = branches.take(content_of(2), label="B")

    manifest = branches.take(content_of(2), other)

    assert manifest.disks[0].full_reason == FullReason.BASE_UNSUITABLE
    branches.assert_right()


def test_a_suspect_base_is_refused(path: Path) -> None:
    branches = Branches(path)
    base = branches.take(content_of(1))
    with writing(path) as repository:
        repository.points.put_state(PointState(base.point, suspect="a test doubts it"))

    manifest = branches.take(written(content_of(1), 1), base)

    assert manifest.disks[0].full_reason == FullReason.BASE_SUSPECT
    assert manifest.disks[0].suspect is None
    branches.assert_right()


def test_a_base_with_a_damaged_manifest_is_refused(path: Path) -> None:
    branches = Branches(path)
    base = branches.take(content_of(1))
    branches.take(content_of(2))
    file = path / "points" / base.point
    file.write_bytes(file.read_bytes()[:-5])

    manifest = branches.take(written(content_of(1), 1), base)

    assert manifest.kind == "full"
    assert manifest.disks[0].full_reason == FullReason.BASE_DAMAGED
    branches.retained.remove(base)
    branches.assert_right()


def test_a_base_whose_manifest_is_missing_is_refused(path: Path) -> None:
    branches = Branches(path)
    base = branches.take(content_of(1))
    branches.take(content_of(2))
    (path / "points" / base.point).unlink()

    manifest = branches.take(written(content_of(1), 1), base)

    assert manifest.disks[0].full_reason == FullReason.BASE_MISSING
    branches.retained.remove(base)
    branches.assert_right()


def test_an_incremental_on_an_unusable_base_is_refused(path: Path) -> None:
    branches = Branches(path)
    branches.take(content_of(1))
    forgotten = branches.take(content_of(2))
    forget(path, forgotten.point)

    with pytest.raises(ChangeTrackingUnusable, match="--incremental-only"):
        branches.take(content_of(3), forgotten, want="incremental")


def test_a_miss_marks_the_chain_of_the_base_and_not_another_branch(path: Path) -> None:
    branches = Branches(path)
    everything = Sampling(1.0)
    full = branches.take(content_of(1))
    wrong = branches.take(written(content_of(1), 2), full, hidden=1)
    other = branches.take(content_of(3), want="full")
    sibling = branches.take(written(content_of(3), 4), other)

    content = written(branches.contents[wrong.point], 5)
    taken = branches.take(content, wrong, audit=everything)

    assert taken.disks[0].full_reason == FullReason.AUDIT
    assert branches.suspects() == {wrong.point}
    assert sibling.point not in branches.suspects()
