"""Areas that vSphere or a transport calls unallocated: skipped, sampled, proven."""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import pytest

from cbtfs.cli.main import main
from cbtfs.core.allocation import Allocation
from cbtfs.core.audit import Sampling
from cbtfs.core.manifest import DiskRecord, Manifest
from cbtfs.core.proving import Proving
from cbtfs.core.reasons import FullReason
from tests.ingest.audit.silent_tracker import listed, suspects
from tests.scenarios.vsphere.server import at
from tests.scenarios.vsphere.site import (
    FIRST,
    MIB,
    VM,
    Lab,
    by_datastore,
    by_nbd,
    by_nfc,
    new_lab,
    one_vm,
)
from tests.scenarios.vsphere.vddk import by_vddk
from tools.vsim import DiskEntry, ServerEntry, Simulator
from tools.vsim.soap.certificate import Certificate

SIZE: Final = 6 * MIB
UNSAMPLED: Final = Proving(Fraction(1, 30), Sampling(1e-9, 1, 1))
"""The default share of the areas in each run; the sample of a full is one block."""
UNIT: Final = 65536


@pytest.fixture
def thin(tmp_path: Path, certificate: Certificate) -> Iterator[Lab]:
    """A site with a VM that is tracked from the start; some blocks of its disk have data."""
    with Simulator(one_vm(DiskEntry(size=SIZE), cbt=True), certificate=certificate) as sim:
        lab = new_lab(sim, tmp_path)
        sim.knobs.change("cbt", granularity=UNIT, unmap_unit=UNIT)
        for unit in (3, 40, 41, 90):
            lab.write(unit * UNIT, b"data" * 5000)
        yield lab


def record_of(manifest: Manifest) -> tuple[DiskRecord, Allocation]:
    (disk,) = manifest.of_kind("disk")
    assert disk.allocation is not None
    return disk, disk.allocation


def ingest(lab: Lab, **options: Any) -> tuple[DiskRecord, Allocation]:
    return record_of(lab.ingest(**options).manifest)


def test_the_datastore_transport_reads_everything_by_default(thin: Lab) -> None:
    disk, allocation = ingest(thin, proving=Proving())

    assert disk.counts.read_bytes == SIZE
    assert allocation == Allocation("transport", 0)
    thin.assert_all_true()


def test_with_star_only_the_areas_in_use_are_read(thin: Lab) -> None:
    disk, allocation = ingest(thin, allocation="star", proving=UNSAMPLED)

    assert disk.counts.read_bytes == 4 * UNIT
    assert allocation.method == "star"
    assert allocation.skipped == allocation.unproven_bytes == SIZE - 4 * UNIT
    thin.assert_all_true()


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"star": "fault"}, "the change query failed"),
        ({"malformed": "outside"}, "the change list is refused"),
        ({"malformed": "zero-length"}, "the change list is refused"),
        ({"star": "whole"}, None),
    ],
)
def test_an_answer_that_cannot_be_used_means_the_whole_disk(
    thin: Lab, knobs: dict[str, Any], words: str | None
) -> None:
    thin.sim.knobs.change("cbt", **knobs)
    disk, allocation = ingest(thin, allocation="star", proving=UNSAMPLED)

    assert disk.counts.read_bytes == SIZE
    assert allocation.unproven == ()
    assert (words or "") in (allocation.refused or "")
    assert (allocation.refused is None) == (words is None)
    thin.assert_all_true()


def test_many_pages_are_followed(thin: Lab) -> None:
    thin.sim.knobs.change("cbt", max_extents=1, empty_pages=True)

    disk, _ = ingest(thin, allocation="star", proving=UNSAMPLED)

    assert disk.counts.read_bytes == 4 * UNIT
    thin.assert_all_true()


def test_star_is_not_used_while_the_vm_has_another_snapshot(thin: Lab) -> None:
    thin.make_transport = by_nbd
    thin.sim.knobs.change("data", holes="none")
    other = thin.sim.do.snapshot(VM, "of another product")
    disk, allocation = ingest(thin, allocation="star", proving=UNSAMPLED)

    assert disk.counts.read_bytes == SIZE
    assert "the VM had the snapshot of another product" in (allocation.refused or "")

    thin.sim.do.remove_snapshot(other)
    _, later = ingest(thin, allocation="star", proving=UNSAMPLED, want="full")
    assert "at an earlier point the VM had the snapshot" in (later.refused or "")
    _, again = ingest(thin, allocation="star", proving=UNSAMPLED, want="full")
    assert again.refused == later.refused

    for is_on in (False, True):
        thin.sim.do.set_cbt(VM, is_on)
        thin.sim.do.stun(VM)
    ingest(thin, allocation="star", proving=UNSAMPLED)
    _, last = ingest(thin, allocation="star", proving=UNSAMPLED, want="full")
    assert last.refused is None
    assert last.skipped > 0
    thin.assert_all_true()


@pytest.mark.parametrize("by", ["star", "nbd", "nfc", "vddk"])
def test_one_miss_in_the_sample_makes_the_disk_a_full_scan(thin: Lab, by: str) -> None:
    makers = {"star": by_datastore, "nbd": by_nbd, "nfc": by_nfc, "vddk": by_vddk}
    thin.make_transport = makers[by]
    thin.sim.do.set_knobs("nfc", misses=1.0)
    thin.sim.knobs.change("cbt", allocation_misses=1.0)
    thin.sim.knobs.change("data", allocation_misses=1.0)
    method = "star" if by == "star" else "transport"
    disk, allocation = ingest(thin, allocation=method, proving=Proving(sampling=Sampling(1.0)))

    assert disk.counts.read_bytes == SIZE
    assert allocation.mismatches > 0
    assert allocation.unproven == ()
    thin.assert_all_true()


DISKS: Final = 6
RUNS: Final = int(os.environ.get("CBTFS_PROVE_RUNS", "10"))
"""Runs that prove everything; CBTFS_PROVE_RUNS=30 takes the default share of the program."""
SEEDS: Final = int(os.environ.get("CBTFS_PROVE_SEEDS", "1"))
"""Number of servers whose answers lack other blocks."""
UNITS: Final = SIZE // UNIT


@pytest.mark.parametrize("seed", range(SEEDS))
def test_each_silent_miss_is_found_within_the_runs_and_marked(
    tmp_path: Path, certificate: Certificate, seed: int
) -> None:
    disks = [DiskEntry(size=SIZE, label=f"disk {n}") for n in range(DISKS)]
    inventory = replace(one_vm(*disks, cbt=True), server=ServerEntry(seed=seed))
    with Simulator(inventory, certificate=certificate) as sim:
        lab = new_lab(sim, tmp_path)
        sim.knobs.change("cbt", granularity=UNIT, unmap_unit=UNIT)
        for disk in range(DISKS):
            for unit in range(disk, UNITS, 7):
                lab.write(unit * UNIT, b"data of %d" % unit, disk=FIRST + disk)
            misses = 0.1 if disk < DISKS - 1 else 0.0
            sim.do.set_disk_cbt(VM, FIRST + disk, allocation_misses=misses)
        options: dict[str, Any] = {
            "allocation": "star",
            "proving": replace(UNSAMPLED, share=Fraction(1, RUNS)),
        }
        first = lab.ingest(**options).manifest
        found = dict[str, int]()
        for run in range(1, RUNS + 1):
            manifest = lab.ingest(**options).manifest
            for disk_record in manifest.of_kind("disk"):
                if disk_record.full_reason is FullReason.ALLOCATION:
                    found.setdefault(disk_record.label, run)
        points = listed(lab.repository)
        wrong = {manifest.point: wrong_labels(lab, manifest) for manifest in lab.points}

        print(f"server {seed}: run by disk: {found}")
        assert len(wrong[first.point]) >= (3 if seed == 0 else 1)
        assert found.keys() == wrong[first.point], found
        for manifest in lab.points:
            for disk_record in manifest.of_kind("disk"):
                if disk_record.label in wrong[manifest.point]:
                    assert points[manifest.point].suspect_disk(disk_record) is not None
        last = lab.points[-1]
        assert wrong[last.point] == set()
        assert last.point not in suspects(lab.repository)
        for disk_record in last.of_kind("disk"):
            assert disk_record.allocation is not None
            assert disk_record.allocation.unproven == ()


def wrong_labels(lab: Lab, manifest: Manifest) -> set[str]:
    """Return the labels of the disks of a point that differ from the snapshot."""
    images = lab.images(manifest)
    return {
        disk["label"]
        for disk in manifest.metadata["disks"]
        if images[disk["label"]] != lab.truth(manifest, disk)
    }


def test_the_commands_report_the_proven_share(
    thin: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CBTFS_VSPHERE_PASSWORD", thin.sim.user.password)
    metrics = tmp_path / "run.prom"
    words = ["--transport", "datastore", "--allocation", "star", "--metrics", str(metrics), VM]
    repo = ["--repo", str(thin.repository)]

    def run(*arguments: str) -> Any:
        capsys.readouterr()
        assert main([*repo, *arguments]) == 0
        return capsys.readouterr().out

    first = json.loads(run("ingest", "vsphere", "--json", *at(thin.sim), "--prove", "50%", *words))
    second = json.loads(run("ingest", "vsphere", "--json", *at(thin.sim), "--prove", "1/2", *words))
    before, after = (point["points"][0]["disks"][0]["allocation"] for point in (first, second))
    text = run("show", f"{VM}@latest")
    shown = json.loads(run("show", "--json", f"{VM}@latest"))["disks"][0]["allocation"]
    doctor = json.loads(run("doctor", "--json", *at(thin.sim), VM))
    (finding,) = (f for f in doctor["vms"][0]["findings"] if f["check"] == "proof")

    assert before["unproven_bytes"] == SIZE - 4 * UNIT
    assert after["unproven_bytes"] == before["unproven_bytes"] // 2
    assert after["proven_share"] == round(1 - after["unproven_bytes"] / SIZE, 6)
    assert shown == after
    assert "proven   52." in text
    assert "52." in finding["text"]
    ratio = next(line for line in metrics.read_text().splitlines() if "vm_proven_ratio{" in line)
    assert float(ratio.rpartition(" ")[2]) == pytest.approx(after["proven_share"], abs=1e-6)
    unproven = next(li for li in metrics.read_text().splitlines() if "vm_unproven_bytes{" in li)
    assert float(unproven.rpartition(" ")[2]) == after["unproven_bytes"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--allocation", "stars"], "unknown --allocation 'stars'"),
        (["--allocation", "star", "--prove", "0"], "needs the proof"),
        (["--prove", "1/0"], "invalid --prove '1/0'"),
        (["--prove", "31/30"], "invalid --prove"),
        (["--prove", "-1%"], "invalid --prove"),
        (["--prove", "many"], "invalid --prove"),
    ],
)
def test_invalid_options_are_usage_errors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    code = main(
        ["--repo", str(tmp_path), "ingest", "vsphere", "--server", "vc1", "--user", "u", *words, VM]
    )

    assert code == 2
    assert message in capsys.readouterr().err
