"""An interrupted run leaves a partly captured snapshot, and the next run resumes it."""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cbtfs.core.audit import Sampling
from cbtfs.core.frame import Kind
from cbtfs.core.progress import decode_progress
from cbtfs.errors import SourceUnavailable
from cbtfs.ingest import capture
from cbtfs.prune.prune import prune
from cbtfs.prune.select import PruneLimits
from cbtfs.store.identity import new_id
from cbtfs.store.quarantine import CorruptFrame
from cbtfs.store.repository import writing
from cbtfs.store.runs import RunFacts, RunFolder
from tests.make_points import read_point
from tests.scenarios.vsphere import one_ingest
from tests.scenarios.vsphere.command import KILLS
from tests.scenarios.vsphere.site import (
    FIRST,
    MIB,
    SECOND,
    TRANSPORTS,
    VM,
    Lab,
    kinds,
    new_lab,
    one_vm,
)
from tools.vsim import DatastoreEntry, DiskEntry, Simulator
from tools.vsim.rules import ReadRule
from tools.vsim.soap.certificate import Certificate

SIZE = 6 * MIB
LEAF = 64 * 4096


class Reads:
    """Counts the bytes of disks read from the simulator; kills a process at a limit."""

    def __init__(self, sim: Simulator) -> None:
        self.bytes = 0
        self.victim: subprocess.Popen[bytes] | None = None
        self.limit = 0
        inner = sim.world.on_read

        def counting(start: int, end: int, name: str) -> ReadRule | None:
            rule = inner(start, end, name)
            if rule is None and not name.startswith("["):
                self.bytes += end - start
                if self.victim is not None and self.bytes >= self.limit:
                    self.victim.kill()
            return rule

        sim.world.on_read = counting  # type: ignore[method-assign]


@pytest.fixture
def lab(tmp_path: Path, certificate: Certificate, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    """A VM with a disk of noise and a small one; packs are small, every leaf is a checkpoint."""
    monkeypatch.setattr(capture, "UNIT_BYTES", LEAF)  # one leaf per batch, as with 64 KiB blocks
    stores = (DatastoreEntry("datastore1"), DatastoreEntry("fast", type="NFS"))
    inventory = replace(one_vm(DiskEntry(size=SIZE), DiskEntry(size=MIB)), datastores=stores)
    with Simulator(inventory, certificate=certificate) as sim:
        made = new_lab(sim, tmp_path, TRANSPORTS["nbd"])
        made.checkpoint_seconds, made.pack_bytes = 0.0, 200_000
        made.write(0, random.Random(1).randbytes(SIZE))
        made.write(0, random.Random(2).randbytes(MIB), disk=SECOND)
        yield made


def lose(lab: Lab, disk: int = FIRST, at: int = 14, left: int = 1, **options: Any) -> None:
    """Start a run that fails at read *at* of a disk and cannot remove its snapshot."""
    lab.sim.do.on_read(export=f"*/*/{disk}", at=at)
    lab.sim.do.on_call("RemoveSnapshot_Task", times=100)
    with pytest.raises(SourceUnavailable):
        lab.ingest(**options)
    lab.sim.do.clear_rules()
    assert len(lab.snapshots()) == left


def refusal(notes: tuple[str, ...]) -> str:
    (refused,) = [note for note in notes if "cannot resume" in note]
    return refused.partition(" of an interrupted run: ")[2]


def frames(lab: Lab) -> tuple[int, int]:
    """Return the number of frames in all packs, and of objects in the catalog."""
    with writing(lab.repository) as repository, repository.catalog.view() as view:
        frames = sum(record.objects for record in view.packs().values())
        return frames, sum(1 for _ in view.all_locations())


def kill_at(lab: Lab, reads: Reads, limit: int) -> None:
    """Start a full in a separate process, and kill it after *limit* bytes."""
    sim = lab.sim
    place = [sim.host, str(sim.port), str(sim.certificate.certificate), sim.nbd_uri]
    reads.bytes, reads.limit = 0, limit
    reads.victim = subprocess.Popen(
        [sys.executable, "-m", one_ingest.__name__, *place, str(lab.repository)],
        cwd=Path(__file__).parents[3],
        env={**os.environ, "USERNAME": sim.user.name, "PASSWORD": sim.user.password},
    )
    assert reads.victim.wait(60) == -signal.SIGKILL
    reads.victim = None
    assert len(lab.snapshots()) == 1


def test_a_full_is_resumed_while_the_guest_writes(lab: Lab) -> None:
    lose(lab)
    for at in range(0, SIZE, 300_000):
        lab.write(at, b"written after the snapshot" * 50)
    reads = Reads(lab.sim)
    outcome = lab.ingest()

    lab.assert_true(outcome.manifest)
    lab.assert_clean()
    resumed = outcome.manifest.metadata["resumed"]
    saved = resumed["not_read_bytes"]["Hard disk 1"]
    assert saved >= 6 * LEAF
    assert reads.bytes == SIZE + MIB - saved
    assert outcome.manifest.disks[0].counts.read_bytes == SIZE - saved
    assert outcome.manifest.disks[0].counts.written_blocks == SIZE // 4096
    assert saved <= outcome.manifest.disks[0].counts.new_bytes <= SIZE
    assert any(f"{saved} bytes were not read again" in note for note in outcome.notes)


def test_the_next_point_is_based_on_the_resumed_snapshot(lab: Lab) -> None:
    lose(lab)
    lab.write(100_000, b"between the snapshot and its capture" * 100)
    first = lab.ingest().manifest
    lab.write(5_000_000, b"later")
    second = lab.ingest().manifest

    lab.assert_all_true()
    assert kinds(second) == ["incremental", "incremental"]
    assert second.disks[0].parent == first.point
    assert second.disks[0].counts.read_bytes < 200_000


def test_an_incremental_is_resumed(lab: Lab) -> None:
    lab.ingest()
    for number in range(20):
        lab.write(number * 300_000, bytes([number + 1]) * 5000)
    lose(lab, at=14)
    lab.write(0, b"after the snapshot")
    reads = Reads(lab.sim)
    manifest = lab.ingest(audit=None).manifest

    lab.assert_true(manifest)
    assert kinds(manifest) == ["incremental", "incremental"]
    saved = manifest.metadata["resumed"]["not_read_bytes"]["Hard disk 1"]
    assert saved > 0
    assert reads.bytes == manifest.disks[0].counts.read_bytes
    before, after = (lab.truth(point, point.metadata["disks"][0]) for point in lab.points)
    places = range(0, SIZE, 4096)
    differing = sum(before[at : at + 4096] != after[at : at + 4096] for at in places)
    assert manifest.disks[0].counts.written_blocks == differing


def test_a_complete_disk_is_not_read_again(lab: Lab) -> None:
    lose(lab, disk=SECOND, at=3)
    manifest = lab.ingest().manifest

    lab.assert_true(manifest)
    assert manifest.disks[0].counts.read_bytes == 0


def test_blocks_in_quarantine_are_read_again(lab: Lab) -> None:
    lose(lab)
    with writing(lab.repository) as repository:
        with repository.catalog.view() as view:
            packs = view.packs()
            place = next(p for _, p in view.all_locations() if p.frame.kind is Kind.CHUNK)
        frame = place.frame
        bad = CorruptFrame(packs[place.pack].id, frame.offset, frame.kind, 0, frame.digest)
        repository.add_to_quarantine([bad])
    manifest = lab.ingest().manifest

    lab.assert_true(manifest)
    assert manifest.disks[0].counts.read_bytes == SIZE


def test_files_name_the_disks_and_not_their_deltas(lab: Lab) -> None:
    lose(lab)
    manifest = lab.ingest().manifest
    contents = read_point(lab.repository, manifest)

    assert b"web1-flat.vmdk" in contents["Hard disk 1.vmdk"]
    assert b'scsi0:0.fileName = "web1.vmdk"' in contents["web1.vmx"]
    assert b"# scsi0:0.fileName was web1-000001.vmdk, a file of a snapshot" in contents["web1.vmx"]


@pytest.mark.parametrize("resume", [True, False])
def test_after_a_kill_nothing_is_stored_twice(lab: Lab, resume: bool) -> None:
    kill_at(lab, Reads(lab.sim), SIZE // 2)
    left, known = frames(lab)
    lab.ingest(resume=resume)

    lab.assert_all_true()
    lab.assert_clean()
    assert left == known > 4 * 64
    whole, known = frames(lab)
    assert whole == known
    blocks = (SIZE + MIB) // 4096
    assert (
        whole < blocks + blocks // 64 + 150
    )  # chunks, leaves; nodes above, checkpoints, small files


def test_kills_at_random_moments_lose_little_and_no_committed_data(lab: Lab) -> None:
    rng, reads, saved = random.Random(11), Reads(lab.sim), 0
    lab.ingest()
    for _ in range(KILLS):
        for _ in range(4):
            lab.write(rng.randrange(SIZE - 50_000), rng.randbytes(50_000))
        kill_at(lab, reads, rng.randrange(1, SIZE))
        at_kill = reads.bytes
        lab.write(rng.randrange(SIZE - 50_000), rng.randbytes(50_000))
        reads.bytes = 0
        manifest = lab.ingest(want="full").manifest
        lab.assert_clean()
        kept = sum((manifest.metadata.get("resumed") or {}).get("not_read_bytes", {}).values())
        assert reads.bytes == SIZE + MIB - kept
        assert kept <= at_kill
        saved += kept

    lab.assert_all_true()
    assert saved > KILLS * SIZE // 5


def test_interrupted_runs_make_progress_until_a_point_is_committed(lab: Lab) -> None:
    lose(lab, at=8)
    name = lab.snapshots()
    for at in (6, 3):
        lose(lab, at=at)
        assert lab.snapshots() == name
    manifest = lab.ingest().manifest

    lab.assert_true(manifest)
    lab.assert_clean()
    assert manifest.disks[0].counts.read_bytes <= SIZE - 9 * LEAF


def test_a_run_removes_its_snapshot_if_it_can(lab: Lab) -> None:
    lab.sim.do.on_read(export=f"*/*/{FIRST}", at=14)
    with pytest.raises(SourceUnavailable):
        lab.ingest()

    lab.assert_clean()


def test_pruned_data_is_read_again(lab: Lab) -> None:
    lab.ingest()
    for number in range(20):
        lab.write(number * 300_000, random.Random(number).randbytes(100_000))
    lose(lab, at=14)
    with writing(lab.repository) as repository:
        prune(repository, PruneLimits())
    manifest = lab.ingest().manifest

    lab.assert_true(manifest)
    assert manifest.metadata["resumed"]["not_read_bytes"] == {}


def test_a_begun_full_scan_is_resumed(lab: Lab) -> None:
    lab.ingest()
    lose(lab, want="full")
    manifest = lab.ingest().manifest

    lab.assert_true(manifest)
    assert manifest.disks[0].reason == "a full was requested"
    assert manifest.metadata["resumed"]["not_read_bytes"]["Hard disk 1"] > 0


def test_a_resumed_run_is_audited(lab: Lab) -> None:
    lab.ingest()
    lab.write(0, random.Random(5).randbytes(4 * MIB))
    lose(lab, at=12)
    manifest = lab.ingest(audit=Sampling(1.0)).manifest

    lab.assert_true(manifest)
    audit = manifest.disks[0].audit
    assert audit is not None
    assert audit["blocks"] > 0


def _another_snapshot(lab: Lab) -> None:
    lab.sim.do.snapshot(VM, "of somebody else")


def _another_run(lab: Lab) -> None:
    (path,) = (p for p in (lab.repository / "locks" / "runs").iterdir() if "." not in p.name)
    facts = RunFacts(**json.loads(path.read_bytes()))
    with RunFolder(lab.repository).start(replace(facts, run=new_id(), snapshot="another")):
        lab.sim.do.snapshot(VM, "another")


def _move(lab: Lab) -> None:
    lab.sim.do.relocate(VM, "fast")


def _cbt_off(lab: Lab) -> None:
    lab.sim.do.set_cbt(VM, False)


def _too_old(lab: Lab) -> None:
    lab.sim.do.advance(7 * 3600)


def _damage(lab: Lab) -> None:
    (record,) = (lab.repository / "locks" / "runs").glob("*.progress")
    data = bytearray(record.read_bytes())
    data[len(data) // 2] ^= 1
    record.write_bytes(data)


def _cut(lab: Lab) -> None:
    (record,) = (lab.repository / "locks" / "runs").glob("*.progress")
    record.write_bytes(record.read_bytes()[:100])


def _forget_base(lab: Lab) -> None:
    with writing(lab.repository) as repository:
        repository.forget([lab.points[-1].point])


@pytest.mark.parametrize(
    ("happens", "options", "reason"),
    [
        (_another_snapshot, {}, "it is not the newest snapshot of the VM"),
        (_another_run, {}, "it is one of several"),
        (_move, {}, "disk 2000 has changed"),
        (_cbt_off, {}, "change tracking was enabled or disabled since"),
        (_too_old, {}, "it is older than 21600 s"),
        (_damage, {}, "the record of its progress is damaged"),
        (_cut, {}, "the record of its progress is damaged"),
        (_forget_base, {}, "the base of disk 2000 is another point"),
        (None, {"resume": False}, "--no-resume was given"),
        (None, {"quiesce": True}, "it was taken without --quiesce"),
        (None, {"exclude": ("2001",)}, "other disks are to be captured now"),
    ],
)
def test_a_changed_snapshot_is_removed(
    lab: Lab, happens: Callable[[Lab], None] | None, options: dict[str, Any], reason: str
) -> None:
    lab.ingest()
    lab.write(1_000_000, random.Random(7).randbytes(4 * MIB))
    lose(lab)
    (name,) = lab.snapshots()
    if happens is not None:
        happens(lab)
    outcome = lab.ingest(**options)

    assert refusal(outcome.notes).startswith(reason)
    assert f"removed the snapshot {name} of an interrupted run" in outcome.notes
    assert outcome.manifest.metadata.get("resumed") is None
    assert outcome.manifest.metadata["snapshot"]["name"] != name
    lab.assert_true(outcome.manifest)
    assert name not in lab.snapshots()
    assert lab.run_records() == []


def test_a_run_is_not_resumed_if_the_snapshot_below_was_removed(lab: Lab) -> None:
    lab.sim.do.set_cbt(VM, True)
    below = lab.sim.do.snapshot(VM, "of somebody else")
    lose(lab, left=2)
    lab.sim.do.remove_snapshot(below)
    outcome = lab.ingest()

    lab.assert_true(outcome.manifest)
    lab.assert_clean()
    assert refusal(outcome.notes) == "other snapshots of the VM were added or removed"


def test_a_run_is_resumed_on_top_of_a_foreign_snapshot(lab: Lab) -> None:
    lab.sim.do.set_cbt(VM, True)
    lab.sim.do.snapshot(VM, "of somebody else")
    lose(lab, left=2)
    lab.write(0, b"after the snapshot")
    outcome = lab.ingest()

    lab.assert_true(outcome.manifest)
    assert lab.snapshots() == ["of somebody else"]
    assert outcome.manifest.metadata["resumed"]["not_read_bytes"]


def test_a_run_without_recorded_progress_is_not_resumed_and_notes_say_so(lab: Lab) -> None:
    lab.checkpoint_seconds = 3600.0
    lose(lab)
    outcome = lab.ingest()

    lab.assert_true(outcome.manifest)
    assert refusal(outcome.notes).startswith("the run ended before it recorded progress")


def test_notes_say_that_there_is_no_snapshot_to_resume_from(lab: Lab) -> None:
    lose(lab)
    (moref,) = [snapshot["id"] for snapshot in lab.sim.do.vms()[0]["snapshots"]]
    lab.sim.do.remove_snapshot(moref)
    outcome = lab.ingest()
    again = lab.ingest()

    lab.assert_true(outcome.manifest)
    assert refusal(outcome.notes).startswith("it does not exist")
    assert not any("resume" in note for note in again.notes)


def test_another_snapshot_of_the_same_name_is_not_resumed(lab: Lab) -> None:
    lose(lab)
    (name,) = lab.snapshots()
    (moref,) = [snapshot["id"] for snapshot in lab.sim.do.vms()[0]["snapshots"]]
    lab.sim.do.remove_snapshot(moref)
    lab.write(0, b"before the second one of that name")
    lab.sim.do.snapshot(VM, name)
    outcome = lab.ingest()

    lab.assert_true(outcome.manifest)
    assert refusal(outcome.notes) == "it is not the one that the run took"


def test_a_progress_record_has_only_what_a_resume_needs(lab: Lab) -> None:
    lose(lab)
    (path,) = (lab.repository / "locks" / "runs").glob("*.progress")
    progress = decode_progress(path.read_bytes())

    assert path.stat().st_mode & 0o777 == 0o600
    assert path.stat().st_size < 4000
    assert [disk.key for disk in progress.snapshot.disks] == [FIRST, SECOND]
    (disk,) = progress.disks.values()
    assert len(disk.checkpoints) == 3
    assert [checkpoint.leaf for checkpoint in disk.checkpoints] == sorted(
        {checkpoint.leaf for checkpoint in disk.checkpoints}
    )
