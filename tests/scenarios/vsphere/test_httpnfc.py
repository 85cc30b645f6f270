"""The transport httpnfc: the export lease of a snapshot, the last resort for a first full."""

import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cbtfs.core.extent import Extent
from cbtfs.errors import AccessDenied, SourceUnavailable
from cbtfs.ingest.inputs import OnDisk, no_progress
from cbtfs.ingest.vsphere.vm import ingest_machine
from cbtfs.source.transport.base import Transport, TransportDisk
from cbtfs.source.vsphere.inventory.vms import list_vms
from cbtfs.source.vsphere.snapshots.export_lease import open_lease, slot_of
from tests.scenarios.vsphere.command import start
from tests.scenarios.vsphere.site import (
    MIB,
    QUICK,
    SECOND,
    VM,
    Lab,
    by_datastore,
    by_httpnfc,
    new_lab,
    one_vm,
)
from tools.vsim import DiskEntry, Simulator, UserEntry
from tools.vsim.soap.certificate import Certificate


@pytest.fixture
def exported(lab: Lab) -> Lab:
    """A site whose transport is the export lease; both disks have data."""
    lab.make_transport = by_httpnfc
    lab.write(MIB - 70_000, b"the end of the second disk" * 2600, disk=SECOND)
    return lab


def leases(lab: Lab) -> dict[str, int]:
    """Return the number of calls of each kind that concern leases."""
    names = ("ExportSnapshot", "HttpNfcLeaseProgress", "HttpNfcLeaseComplete", "HttpNfcLeaseAbort")
    calls = lab.sim.do.calls()
    return {name: calls.count(name) for name in names}


def test_a_first_full_by_an_export_equals_the_snapshot(exported: Lab) -> None:
    manifest = exported.ingest().manifest
    calls = leases(exported)

    exported.assert_all_true()
    exported.assert_clean()
    assert [disk["transport_mode"] for disk in manifest.metadata["disks"]] == ["httpnfc"] * 2
    assert (calls["ExportSnapshot"], calls["HttpNfcLeaseComplete"]) == (1, 1)
    assert calls["HttpNfcLeaseAbort"] == 0


def test_a_disk_is_found_by_its_slot(tmp_path: Path, certificate: Certificate) -> None:
    slots = ("ide0:1", "sata0:3", "nvme0:0", "scsi1:2")
    disks = [DiskEntry(size=MIB, slot=slot, label=slot) for slot in slots]
    with Simulator(one_vm(*disks), certificate=certificate) as sim:
        lab = new_lab(sim, tmp_path, by_httpnfc)
        for disk in sim.do.vms()[0]["disks"]:
            lab.write(1000, str(disk["key"]).encode() * 500, disk=disk["key"])
        lab.ingest()

        lab.assert_all_true()


@pytest.mark.parametrize(
    ("key", "slot"),
    [
        ("/vm-13010/ParaVirtualSCSIController0:0", "scsi0:0"),
        ("/vm-13011/VirtualBusLogicController0:1", "scsi0:1"),
        ("/vm-13012/VirtualLsiLogicController2:0", "scsi2:0"),
        ("/10/VirtualLsiLogicSASController0:15", "scsi0:15"),
        ("/vm-13767/VirtualAHCIController0:1", "sata0:1"),
        ("/vm-5678/VirtualIDEController1:0", "ide1:0"),
        ("/vm-2468/VirtualNVMEController0:0", "nvme0:0"),
        ("/vm-54321/VirtualUSBController0:0", None),
        ("/10/nvram", None),
        ("", None),
    ],
)
def test_the_slot_is_in_the_key_of_a_device(key: str, slot: str | None) -> None:
    assert slot_of(key) == slot


def ingest_auto(lab: Lab, **options: Any) -> Any:
    """Take a point with `datastore` and `httpnfc`, in the order of auto."""
    with lab.context(**options) as context:
        made = [make(lab.sim, context.session) for make in (by_datastore, by_httpnfc)]
        (vm,) = list_vms(context.session)
        result = ingest_machine(replace(context, transports=made), vm)
    lab.points.append(result.manifest)
    return result


def test_auto_exports_only_what_nothing_else_can_read_and_records_why(lab: Lab) -> None:
    first = ingest_auto(lab).manifest
    lab.sim.do.snapshot(VM, "of another product")
    again = ingest_auto(lab, want="full")
    metadata = again.manifest.metadata

    assert first.metadata["transport"] == "datastore"
    assert metadata["transport"] == "httpnfc"
    assert "another snapshot" in metadata["transports_refused"][0]
    assert any("exported the whole disks (httpnfc)" in note for note in again.notes)
    lab.assert_all_true()


def test_a_running_vm_whose_base_disk_is_refused_is_exported(lab: Lab) -> None:
    lab.sim.knobs.change("data", base_locked=True)

    manifest = ingest_auto(lab).manifest

    assert manifest.metadata["transport"] == "httpnfc"
    assert "the server answers 500" in manifest.metadata["transports_refused"][0]
    lab.assert_all_true()
    lab.assert_clean()


def test_only_a_full_is_exported(exported: Lab) -> None:
    exported.ingest()
    with pytest.raises(SourceUnavailable, match=r"httpnfc: .*reads whole disks only.*--full"):
        exported.ingest()
    exported.ingest(want="full")

    exported.assert_all_true()
    exported.assert_clean()


def test_a_vm_that_is_not_tracked_is_exported_each_time(exported: Lab) -> None:
    exported.sim.do.snapshot(VM, "of another product")
    for _ in range(2):
        manifest = exported.ingest().manifest

        assert manifest.kind == "full"
    exported.assert_all_true()


def fails(lab: Lab, words: str, kind: type[Exception] = SourceUnavailable) -> None:
    """Assert that a run takes no point, leaves nothing, and that the next one succeeds."""
    with pytest.raises(kind, match=words):
        lab.ingest()
    lab.assert_clean()
    lab.sim.do.reset_knobs()
    lab.sim.knobs.change("snapshot", keep_truth=True)
    lab.ingest()
    lab.assert_all_true()
    lab.assert_clean()


@pytest.mark.parametrize("fault", ["deflate", "missing-grain", "no-footer"])
def test_a_defect_of_the_exported_file_is_never_committed(exported: Lab, fault: str) -> None:
    exported.sim.knobs.change("data", lease_stream=fault)
    fails(exported, r"disk Hard disk 1: .*exported file")


@pytest.mark.parametrize("action", ["eio", "short"])
def test_a_failed_download_starts_again(exported: Lab, action: str) -> None:
    exported.sim.do.on_read(action=action, export="*/2001", times=2)
    exported.ingest()

    exported.assert_all_true()
    exported.assert_clean()


@pytest.mark.parametrize(("action", "words"), [("eio", "answers 500"), ("short", "too early")])
def test_a_download_that_always_fails_ends_the_run(exported: Lab, action: str, words: str) -> None:
    exported.sim.do.on_read(action=action, export="*/2001", times=100)
    fails(exported, f"disk Hard disk 2: .*{words}")


def test_a_lease_that_fails_is_reported(exported: Lab) -> None:
    exported.sim.knobs.change("data", lease_fails=True)
    fails(exported, r"export the snapshot: FileFault \(A file error occurred.\)")


def test_a_slow_lease_is_waited_for(exported: Lab) -> None:
    exported.sim.knobs.change("task", seconds=0.2)
    exported.ingest()

    exported.assert_all_true()


def test_a_lease_that_is_never_ready_is_aborted(exported: Lab) -> None:
    exported.retry_policy = replace(QUICK, call=0.3)
    with exported.session() as session:
        (vm,) = list_vms(session)
        snapshot = exported.sim.do.snapshot(VM, "slow")
        exported.sim.knobs.change("task", seconds=3600)
        with pytest.raises(SourceUnavailable, match="the lease is not ready after"):
            open_lease(session, vm.id, snapshot)

    assert leases(exported)["HttpNfcLeaseAbort"] == 1


def during_the_read(act: Callable[[], None]) -> OnDisk:
    """Return a callback of a capture that calls *act* when the first bytes are stored."""
    acted = threading.Event()

    def on_disk(label: str, size: int) -> Callable[[int], None]:
        def progress(count: int) -> None:
            if not acted.is_set():
                acted.set()
                act()

        return progress

    return on_disk


def test_a_lease_that_timed_out_is_opened_again(exported: Lab) -> None:
    """It ends between the two disks: nobody reported progress for the time of the lease."""
    exported.ingest(on_disk=during_the_read(lambda: exported.sim.do.advance(301)))
    calls = leases(exported)

    assert calls["ExportSnapshot"] == 2
    exported.assert_all_true()
    exported.assert_clean()


def test_a_lease_is_kept_alive_while_a_slow_disk_is_read(exported: Lab) -> None:
    exported.sim.knobs.change("data", lease_seconds=1.0)
    world = exported.sim.world

    def wait() -> None:
        """Wait for more reports than the lease could last without them."""
        with world.changed:
            world.changed.wait_for(lambda: leases(exported)["HttpNfcLeaseProgress"] >= 6, 20)

    exported.ingest(on_disk=during_the_read(wait))
    calls = leases(exported)

    assert calls["ExportSnapshot"] == 1
    assert calls["HttpNfcLeaseProgress"] >= 6
    exported.assert_all_true()


def test_a_session_that_ends_ends_its_lease_and_another_one_is_opened(exported: Lab) -> None:
    def end() -> None:
        exported.sim.do.on_call("*", action="expire-session")

    exported.ingest(on_disk=during_the_read(end))

    assert leases(exported)["ExportSnapshot"] == 2
    exported.assert_all_true()
    exported.assert_clean()


def test_a_lease_that_a_killed_run_left_is_waited_for(exported: Lab) -> None:
    with start(exported, "--transport", "httpnfc", VM) as process:
        exported.sim.do.wait_call("ExportSnapshot")
        process.send_signal(signal.SIGKILL)
        process.communicate()
    (held,) = exported.sim.site.leases
    exported.retry_policy = replace(QUICK, lease=20.0)
    exported.sim.do.on_call(
        "RemoveSnapshot_Task",
        action="operation",
        operation="advance",
        arguments={"seconds": 301},
        at=5,
    )
    outcome = exported.ingest()

    assert held.state == "error"  # it timed out
    assert [note for note in outcome.notes if "of an interrupted run" in note]
    assert list(exported.sim.site.leases) == []
    exported.assert_all_true()
    exported.assert_clean()


def test_a_cancelled_run_aborts_its_lease(exported: Lab) -> None:
    stop = threading.Event()

    def on_disk(label: str, size: int) -> Callable[[int], None]:
        stop.set()
        return no_progress(label, size)

    with pytest.raises(SourceUnavailable, match="interrupted"):
        exported.ingest(on_disk=on_disk, stop=stop)
    calls = leases(exported)

    assert (calls["HttpNfcLeaseComplete"], calls["HttpNfcLeaseAbort"]) == (0, 1)
    exported.assert_clean()


@pytest.mark.parametrize("pin", ["thumbprint", "none"])
def test_another_host_is_pinned_by_the_lease_or_verified_like_the_server(
    exported: Lab, pin: str
) -> None:
    exported.sim.knobs.change("data", lease_host="localhost", lease_pin=pin)
    exported.ingest()

    exported.assert_all_true()


def test_another_host_with_another_certificate_gets_no_ticket(exported: Lab) -> None:
    exported.sim.knobs.change("data", lease_host="localhost", lease_pin="wrong")
    exported.sim.do.on_read(action="eio", export="*", times=100)
    fails(exported, "the certificate is not the one that is named")


def test_a_star_means_the_server_of_the_session(exported: Lab) -> None:
    exported.sim.knobs.change("data", lease_star=True, lease_pin="none")
    exported.ingest()

    exported.assert_all_true()


def test_the_missing_privilege_is_named(tmp_path: Path, certificate: Certificate) -> None:
    poor = UserEntry("poor", "pw", denied=("VApp.Export",))
    inventory = replace(one_vm(), users=(poor,))
    with Simulator(inventory, certificate=certificate) as sim:
        lab = new_lab(sim, tmp_path, by_httpnfc)
        with pytest.raises(AccessDenied, match=r"VApp\.Export"):
            lab.ingest()
        lab.assert_clean()


@pytest.fixture
def reading(exported: Lab) -> Iterator[tuple[Lab, Transport]]:
    """A site with the transport in a session."""
    with exported.session() as session:
        yield exported, by_httpnfc(exported.sim, session)


def test_a_reader_that_ends_early_aborts_the_lease(reading: tuple[Lab, Transport]) -> None:
    lab, transport = reading
    disk = transport_disk(lab)
    reader = transport.open(disk)
    with pytest.raises(SourceUnavailable):
        reader.read(Extent(disk.size - 1, 2))
    reader.close()
    reader.close()

    assert leases(lab)["HttpNfcLeaseAbort"] == 1


def transport_disk(lab: Lab) -> TransportDisk:
    snapshot = lab.sim.do.snapshot(VM, "case")
    return TransportDisk(
        *("Hard disk 1", "vm-101", snapshot, 2000, 2 * MIB, "[datastore1] web1/web1.vmdk"),
        *("VMFS", "DC0"),
        is_flat=True,
        is_alone=True,
        slot="scsi0:0",
        is_whole=True,
    )


def test_a_lease_without_the_disk_is_refused(reading: tuple[Lab, Transport]) -> None:
    lab, transport = reading
    with pytest.raises(SourceUnavailable, match=r"does not offer Hard disk 1 \(scsi3:3\)"):
        transport.open(replace(transport_disk(lab), slot="scsi3:3"))

    assert leases(lab)["HttpNfcLeaseAbort"] == 1
