"""Change tracking that omits some changes, but is correct otherwise.

Audits detect it at the computed rate. After a detection or a full, every wrong point is suspect.
"""

import os
import random
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cbtfs.core.audit import Sampling, detection
from cbtfs.core.ids import PointId
from cbtfs.core.manifest import DiskRecord, Manifest
from cbtfs.ingest.vsphere.options import IngestOptions
from tests.ingest.audit.silent_tracker import listed
from tests.ingest.fake_disks import lose_catalog
from tests.make_points import BLOCK, new_repository
from tests.scenarios.vsphere.vm_history import Site, take_point, wrong_blocks

BLOCKS: Final = 300
DISKS: Final = 8
ROUNDS: Final = int(os.environ.get("CBTFS_MISSES_ROUNDS", "4"))
CHANGES: Final = 40
SHARE: Final = 0.1
SAMPLE: Final = Sampling(0.05, 32, 32)
UNLIKELY: Final = 1e-6
"""Probability that a correct program fails the count; samples differ from run to run."""


@dataclass
class Silent:
    """A VM with change tracking that always omits some changes, and the points of the VM.

    No block is written twice between two fulls of its disk: a missed block that is overwritten and
    then listed cannot be detected (decision 11).
    """

    site: Site
    name: str
    repository: Path
    disks: int
    points: list[Manifest] = field(default_factory=list)
    fresh: dict[str, set[int]] = field(default_factory=dict)
    """Blocks that may be written, by label of the disk."""
    known: dict[PointId, dict[str, list[int]]] = field(default_factory=dict)
    writes: int = 0

    def fill(self) -> None:
        """Write all disks. In areas that a full skips, a miss is blamed on allocation."""
        for number in range(self.disks):
            data = random.Random(number).randbytes(BLOCKS * BLOCK)
            self.site.sim.do.write(self.name, f"disk {number}", 0, data)

    def write(self, disk: int, picker: random.Random, count: int) -> None:
        fresh = self.fresh[f"disk {disk}"]
        chosen = picker.sample(sorted(fresh), min(count, len(fresh)))
        fresh.difference_update(chosen)
        for block in chosen:
            self.writes += 1
            data = random.Random(self.writes).randbytes(100)
            self.site.sim.do.write(self.name, f"disk {disk}", block * BLOCK, data)

    def take(self, **options: Any) -> Manifest:
        manifest = take_point(self.site, self.name, self.repository, IngestOptions(**options))
        self.points.append(manifest)
        for disk in manifest.of_kind("disk"):
            if disk.ingest == "full":
                self.fresh[disk.label] = set(range(BLOCKS))
        return manifest

    def wrong(self, manifest: Manifest) -> dict[str, list[int]]:
        """Return the wrong blocks of a point by label of the disk; they are compared once."""
        if manifest.point not in self.known:
            self.known[manifest.point] = wrong_blocks(self.site, self.repository, manifest)
        return self.known[manifest.point]

    def assert_wrong_points_are_suspect(self, proven: Sequence[DiskRecord]) -> None:
        """Assert that the newest point of *proven* disks is correct, others correct or suspect."""
        points = listed(self.repository)
        newest = self.points[-1]
        for disk in proven:
            assert self.wrong(newest)[disk.label] == []
            assert points[newest.point].suspect_disk(disk) is None
            for manifest in self.points[:-1]:
                point, then = points[manifest.point], manifest.disk(disk.label)
                assert then is not None
                if self.wrong(manifest)[disk.label]:
                    assert point.suspect_disk(then) is not None
                if then.ingest == "full":
                    assert point.suspect_disk(then) is None


@contextmanager
def silent(site: Site, disks: int, share: float) -> Iterator[Silent]:
    """Add a VM with tracking that omits *share* of the changes, and take one point."""
    site.histories += 1
    name, sim = f"silent{site.histories}", site.sim
    folder = site.folder / name
    folder.mkdir()
    sim.knobs.change("snapshot", keep_truth=True)
    sim.knobs.change("cbt", granularity=BLOCK, silent_misses=share)
    tables = [{"size": BLOCKS * BLOCK, "label": f"disk {n}"} for n in range(disks)]
    moid = sim.do.add_vm({"name": name, "cbt": True, "disk": tables})
    try:
        vm = Silent(site, name, new_repository(folder / "repository"), disks)
        vm.fill()
        vm.take()
        yield vm
    finally:
        sim.do.reset_knobs()
        sim.do.remove_vm(name)
        for directory in (sim.state / "disks" / moid, *(sim.state / "snapshots").iterdir(), folder):
            shutil.rmtree(directory)


def tails(probabilities: Sequence[float], hits: int) -> tuple[float, float]:
    """Return the probabilities that at most, and at least, *hits* of independent events occur."""
    exactly = [1.0]
    for p in probabilities:
        missed, hit = [*exactly, 0.0], [0.0, *exactly]
        exactly = [a * (1 - p) + b * p for a, b in zip(missed, hit, strict=True)]
    return sum(exactly[: hits + 1]), sum(exactly[hits:])


def test_the_tails_are_those_of_a_binomial_distribution() -> None:
    low, high = tails([0.5] * 4, 1)

    assert low == pytest.approx(5 / 16)
    assert high == pytest.approx(15 / 16)


def test_misses_are_detected_at_the_computed_rate(site: Site) -> None:
    probabilities, hits = [], 0
    with silent(site, DISKS, SHARE) as vm:
        for number in range(ROUNDS):
            for place in range(DISKS):
                vm.write(place, random.Random(f"{number}/{place}"), CHANGES)
            manifest = vm.take(audit=SAMPLE)
            wrong = vm.wrong(manifest)
            fulls = [disk for disk in manifest.of_kind("disk") if disk.ingest == "full"]
            for disk in manifest.of_kind("disk"):
                audit = disk.audit
                assert audit is not None
                assert audit["blocks"] == SAMPLE.least
                missed = audit["missed"] if disk in fulls else len(wrong[disk.label])
                probabilities.append(detection(audit["of"], missed, audit["blocks"]))
            hits += len(fulls)
            vm.assert_wrong_points_are_suspect(fulls)
            unseen = tuple(label for label, blocks in wrong.items() if blocks)
            if unseen:
                full = vm.take(want="full", audit=SAMPLE, include=unseen)
                vm.assert_wrong_points_are_suspect(full.of_kind("disk"))
            vm.points.clear()  # they are checked; the next round starts from a correct point

    low, high = tails(probabilities, hits)
    assert min(low, high) > UNLIKELY / 2, (hits, sum(probabilities))
    assert (
        0.2 < sum(probabilities) / len(probabilities) < 0.8
    )  # at the extremes a count proves little


DAYS: Final = st.lists(
    st.tuples(
        st.tuples(st.integers(0, 12), st.integers(0, 12)),
        st.sampled_from(
            [{}, {}, {"audit": SAMPLE}, {"audit": Sampling(1.0)}, {"audit": SAMPLE, "want": "full"}]
        ),
        st.booleans(),
    ),
    min_size=1,
    max_size=7,
)
"""For each day: blocks that the guest writes on each disk, options, loss of the catalog."""


@settings(max_examples=6, derandomize=True, database=None)
@given(days=DAYS, share=st.floats(0.05, 0.9), seed=st.integers(0, 1000))
def test_after_a_detection_or_a_full_every_wrong_point_is_suspect(
    site: Site, days: list[Any], share: float, seed: int
) -> None:
    picker = random.Random(seed)
    with silent(site, 2, share) as vm:
        for counts, options, is_lost in days:
            for disk, count in enumerate(counts):
                vm.write(disk, picker, count)
            manifest = vm.take(**options)
            read_whole = [disk for disk in manifest.of_kind("disk") if disk.ingest == "full"]
            vm.assert_wrong_points_are_suspect(read_whole)
            if is_lost:
                lose_catalog(vm.repository)
        full = vm.take(audit=Sampling(1.0), want="full")
        vm.assert_wrong_points_are_suspect(full.of_kind("disk"))


def test_without_audits_the_histories_would_go_wrong_unmarked(site: Site) -> None:
    with silent(site, 1, 0.5) as vm:
        vm.write(0, random.Random(0), 40)
        wrong = vm.take()
        vm.take(want="full")

        assert vm.wrong(wrong)["disk 0"] != []
        assert all(point.suspect is None for point in listed(vm.repository).values())
