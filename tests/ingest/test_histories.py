"""Random histories of VMs: every point reads like its disks did."""

import random
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cbtfs.core.ids import Digest, PointId
from cbtfs.errors import SourceUnavailable
from cbtfs.ingest.plan import Want
from cbtfs.reader import Reader
from cbtfs.store.catalog.catalog import Catalog
from cbtfs.store.repository import reading
from tests.ingest.fake_disks import (
    broken,
    copy_catalog,
    data_blocks,
    forget,
    ingest,
    lose_catalog,
    packs,
    points,
    put_back_catalog,
)
from tests.ingest.ingest_history import Kept, Machine, Mode, counts_of, without_stored
from tests.make_points import BLOCK, new_repository, read_image
from tests.source.fake import FakeDisk

LEAF = 64 * BLOCK
SIZES = [0, 1, 511, BLOCK - 1, BLOCK, BLOCK + 1, 50_000, LEAF - 1, LEAF, LEAF + 1, LEAF + 40_001]
MAX_POINTS = 30

VMS = st.sampled_from(["vm", "vm", "vm", "other"])
LABELS = st.sampled_from(["A", "A", "B"])
MODES: st.SearchStrategy[Mode] = st.sampled_from(
    ["listed", "tracked", "over", "since base", "digest", "wrong", "since another", "listed"]
)
WANTS: st.SearchStrategy[Want] = st.sampled_from(["auto", "auto", "auto", "auto", "full"])
PLACES = st.integers(0, max(SIZES)) | st.integers(0, max(SIZES) // BLOCK).map(lambda n: n * BLOCK)
LENGTHS = st.integers(1, 10_000) | st.sampled_from([BLOCK, 4 * BLOCK, LEAF])
SEEDS = st.integers(0, 3)


class Write(NamedTuple):
    label: str
    at: int
    length: int
    seed: int

    def apply(self, disk: FakeDisk) -> None:
        disk.write(self.at % (disk.size or 1), random.Random(self.seed).randbytes(self.length))


class Trim(NamedTuple):
    label: str
    at: int
    length: int

    def apply(self, disk: FakeDisk) -> None:
        disk.trim(self.at % (disk.size or 1), self.length)


class Resize(NamedTuple):
    label: str
    size: int

    def apply(self, disk: FakeDisk) -> None:
        disk.resize(self.size)


class Run(NamedTuple):
    """Changes to the disks of a VM, and how the disks are then captured."""

    vm: str
    changes: list[Write | Trim | Resize]
    modes: dict[str, Mode]
    want: Want
    seed: int


CHANGES = (
    st.builds(Write, LABELS, PLACES, LENGTHS, SEEDS)
    | st.builds(Trim, LABELS, PLACES, LENGTHS)
    | st.builds(Resize, LABELS, st.sampled_from(SIZES))
)
RUNS = st.builds(
    Run,
    VMS,
    st.lists(CHANGES, max_size=4),
    st.dictionaries(LABELS, MODES, min_size=1),
    WANTS,
    SEEDS,
)


class History:
    """One repository, two VMs, and the expected content of their points."""

    def __init__(self, folder: Path) -> None:
        self.path = new_repository(folder / "repository")
        self.copy = folder / "copy"
        copy_catalog(self.path, self.copy)
        self.vms = {
            vm: Machine({label: FakeDisk(LEAF + 1, vm + label) for label in "AB"})
            for vm in ("vm", "other")
        }
        self.known: set[bytes] = set()
        self.copy_doubted: dict[str, set[PointId]] = {}

    @property
    def retained(self) -> list[Kept]:
        return [kept for machine in self.vms.values() for kept in machine.retained]

    def check_every_point(self) -> None:
        roots: dict[bytes, Digest] = {}
        with reading(self.path) as repository:
            for kept in self.retained:
                for disk in kept.manifest.disks:
                    content = kept.shots[disk.label].content
                    assert read_image(repository, disk) == content
                    assert roots.setdefault(content, disk.root) == disk.root

    def take(self, run: Run) -> None:
        for change in run.changes:
            change.apply(self.vms[run.vm].disks[change.label])
        self.take_a_point(run.vm, run.modes, run.want, run.seed)

    def take_a_point(self, vm: str, modes: Mapping[str, Mode], want: Want, seed: int) -> None:
        machine = self.vms[vm]
        shots = {label: machine.disks[label].take_snapshot() for label in modes}
        rnd = random.Random(seed)
        sources = {n: machine.source(n, shots[n], mode, rnd) for n, mode in modes.items()}
        kinds = {label: machine.expected_kind(label, modes[label], want) for label in modes}
        before = {label: machine.base(label) for label in modes}

        manifest = ingest(
            self.path,
            sources,
            vm=vm,
            want=want,
            change_ids={label: shot.change_id for label, shot in shots.items()},
        )

        kept = Kept(manifest, shots)
        machine.points.append(kept)
        assert {disk.label: disk.ingest for disk in manifest.disks} == kinds
        for disk in manifest.disks:
            base = before[disk.label]
            parent = b"" if base is None else base.shots[disk.label].content
            assert disk.parent == (None if base is None else base.manifest.point)
            assert disk.data_blocks == data_blocks(shots[disk.label].content)
            assert without_stored(disk) == counts_of(shots[disk.label], parent, self.known)

    def fail(self, number: int) -> None:
        """Start a run that fails."""
        disk = self.vms["vm"].disks["A"]
        disk.resize(LEAF + 1)
        disk.write(0, b"\x05")
        disk.write(LEAF, b"\x06")
        before = points(self.path)

        with pytest.raises(SourceUnavailable):
            ingest(self.path, {"A": broken(disk.take_snapshot(), number % BLOCK)}, want="full")

        assert points(self.path) == before

    def forget(self, number: int) -> None:
        if self.retained:
            kept = self.retained[number % len(self.retained)]
            forget(self.path, kept.manifest.point)
            self.vms[kept.manifest.vm.name].forgotten.add(kept.manifest.point)

    def forget_newest(self, number: int) -> None:
        if self.retained:
            self.forget(len(self.retained) - 1)

    def read(self, number: int) -> None:
        """Read a range of a point."""
        for kept in self.retained[number % 7 : number % 7 + 1]:
            offset, length = number % LEAF, number % 20_000
            with reading(self.path) as repository:
                for disk in kept.manifest.disks:
                    content = bytes(Reader(repository).disk(disk).read(offset, length))
                    assert content == kept.shots[disk.label].content[offset : offset + length]

    def lose_catalog(self, number: int) -> None:
        lose_catalog(self.path)
        self.doubt_later_points()

    def keep_a_copy_of_the_catalog(self, number: int) -> None:
        shutil.rmtree(self.copy)
        copy_catalog(self.path, self.copy)
        self.copy_doubted = {vm: {*machine.doubted} for vm, machine in self.vms.items()}

    def put_back_catalog(self, number: int) -> None:
        put_back_catalog(self.path, self.copy)
        for vm, machine in self.vms.items():
            machine.doubted = {*self.copy_doubted.get(vm, ())}
        catalog = Catalog(self.path / "catalog", is_writable=False)
        with catalog.view() as view:
            is_behind = bool(packs(self.path).keys() - view.pack_numbers())
            is_behind |= any(kept.manifest.point not in view.point_ids() for kept in self.retained)
        catalog.close()
        if is_behind:
            self.doubt_later_points()

    def doubt_later_points(self) -> None:
        """Doubt the points that an old catalog learns from manifests: it may lack later ones."""
        for machine in self.vms.values():
            machine.doubted |= {kept.manifest.point for kept in machine.retained}


EVENTS = st.sampled_from(
    [
        History.forget_newest,
        History.forget,
        History.fail,
        History.read,
        History.keep_a_copy_of_the_catalog,
        History.lose_catalog,
        History.put_back_catalog,
    ]
)
Chapter = tuple[list[Run], Callable[[History, int], None], int]
CHAPTERS = st.tuples(st.lists(RUNS, min_size=1, max_size=5), EVENTS, st.integers(0, 1 << 20))


@settings(max_examples=25)
@given(chapters=st.lists(CHAPTERS, min_size=2, max_size=MAX_POINTS // 5))
def test_every_point_reads_like_its_disks(
    tmp_path_factory: pytest.TempPathFactory, chapters: list[Chapter]
) -> None:
    history = History(tmp_path_factory.mktemp("history"))

    for runs, event, number in chapters:
        for run in runs:
            history.take(run)
        event(history, number)

    history.check_every_point()
    lose_catalog(history.path)
    history.check_every_point()
    put_back_catalog(history.path, history.copy)
    history.check_every_point()
