"""Whole histories of VMs, against what their disks were."""

import random
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from cbtfs.core.ids import Digest
from cbtfs.errors import SourceUnavailable
from cbtfs.ingest.plan import Want
from cbtfs.reader import Reader
from cbtfs.store.repository import reading
from tests.ingest.history import Kept, Machine, Mode, counts_of, without_stored
from tests.ingest.support import (
    broken,
    copy_catalog,
    data_blocks,
    forget,
    ingest,
    lose_catalog,
    points,
    put_back_catalog,
)
from tests.source.fake import FakeDisk
from tests.support import BLOCK, new_repository, read_image

LEAF = 64 * BLOCK
SIZES = [0, 1, 511, BLOCK - 1, BLOCK, BLOCK + 1, 50_000, LEAF - 1, LEAF, LEAF + 1, LEAF + 40_001]
MAX_POINTS = 30

VMS = st.sampled_from(["vm", "other"])
LABELS = st.sampled_from(["A", "B"])
MODES: st.SearchStrategy[Mode] = st.sampled_from(
    ["tracked", "digest", "listed", "over", "wrong", "since base", "since another"]
)
WANTS: st.SearchStrategy[Want] = st.sampled_from(["auto", "auto", "auto", "full"])
PLACES = st.integers(0, max(SIZES)) | st.integers(0, max(SIZES) // BLOCK).map(lambda n: n * BLOCK)
LENGTHS = st.integers(1, 10_000) | st.sampled_from([BLOCK, 4 * BLOCK, LEAF])
SEEDS = st.integers(0, 3)


class Histories(RuleBasedStateMachine):
    """Guests write, runs come and go, points are forgotten, the catalog is lost."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="cbtfs-history-"))
        self.path = new_repository(self.folder / "repository")
        self.copy = self.folder / "copy"
        copy_catalog(self.path, self.copy)
        self.vms = {
            vm: Machine({label: FakeDisk(LEAF + 1, vm + label) for label in "AB"})
            for vm in ("vm", "other")
        }
        self.known: set[bytes] = set()

    def teardown(self) -> None:
        self.check_every_point()
        lose_catalog(self.path)
        self.check_every_point()
        put_back_catalog(self.path, self.copy)
        self.check_every_point()
        shutil.rmtree(self.folder)

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

    @rule(vm=VMS, label=LABELS, at=PLACES, length=LENGTHS, seed=SEEDS)
    def write(self, vm: str, label: str, at: int, length: int, seed: int) -> None:
        disk = self.vms[vm].disks[label]
        disk.write(at % (disk.size or 1), random.Random(seed).randbytes(length))

    @rule(vm=VMS, label=LABELS, at=PLACES, length=LENGTHS)
    def trim(self, vm: str, label: str, at: int, length: int) -> None:
        disk = self.vms[vm].disks[label]
        disk.trim(at % (disk.size or 1), length)

    @rule(vm=VMS, label=LABELS, size=st.sampled_from(SIZES))
    def resize(self, vm: str, label: str, size: int) -> None:
        self.vms[vm].disks[label].resize(size)

    @rule(vm=VMS, modes=st.dictionaries(LABELS, MODES, min_size=1), want=WANTS, seed=SEEDS)
    @precondition(lambda self: len(self.retained) < MAX_POINTS)
    def take_a_point(self, vm: str, modes: dict[str, Mode], want: Want, seed: int) -> None:
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

    @rule(vm=VMS, label=LABELS, after=st.integers(0, BLOCK))
    def fail_to_take_a_point(self, vm: str, label: str, after: int) -> None:
        disk = self.vms[vm].disks[label]
        disk.resize(LEAF + 1)
        disk.write(0, b"\x05")
        disk.write(LEAF, b"\x06")
        before = points(self.path)

        with pytest.raises(SourceUnavailable):
            ingest(self.path, {label: broken(disk.take_snapshot(), after)}, vm=vm, want="full")

        assert points(self.path) == before

    @rule(data=st.data())
    @precondition(lambda self: self.retained)
    def forget_a_point(self, data: st.DataObject) -> None:
        kept = data.draw(st.sampled_from(self.retained))
        forget(self.path, kept.manifest.point)
        self.vms[kept.manifest.vm.name].forgotten.add(kept.manifest.point)

    @rule(data=st.data())
    @precondition(lambda self: self.retained)
    def read_a_point(self, data: st.DataObject) -> None:
        kept = data.draw(st.sampled_from(self.retained))
        offset, length = data.draw(PLACES), data.draw(LENGTHS)

        with reading(self.path) as repository:
            reader = Reader(repository)
            for disk in kept.manifest.disks:
                found = bytes(reader.disk(disk).read(offset, length))
                assert found == kept.shots[disk.label].content[offset : offset + length]

    @rule()
    def lose_the_catalog(self) -> None:
        lose_catalog(self.path)

    @rule()
    @precondition(lambda self: (self.path / "catalog").exists())
    def keep_a_copy_of_the_catalog(self) -> None:
        shutil.rmtree(self.copy)
        copy_catalog(self.path, self.copy)

    @rule()
    def put_an_old_copy_of_the_catalog_back(self) -> None:
        put_back_catalog(self.path, self.copy)


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=120, stateful_step_count=40)
