"""Export leases: whole disks by URL, and a machine that stays as it is meanwhile."""

import subprocess
import urllib.error
import urllib.request
from http.client import IncompleteRead
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyVmomi import vim, vmodl

from tests.tools.vsim.clients import (
    DISK,
    MIB,
    connected,
    finished,
    inventory,
    machine,
    take_snapshot,
)
from tests.tools.vsim.test_updates import changes, watch
from tools.vsim import Simulator, UserEntry
from tools.vsim.data.streamed import GRAIN, write_streamed


def download(sim: Simulator, url: str) -> bytes:
    request = urllib.request.Request(url)
    with urllib.request.urlopen(request, context=sim.certificate.client_context()) as answer:
        return bytes(answer.read())


def plain(streamed: Path) -> bytes:
    """The disk in a streamOptimized file, as QEMU understands it."""
    raw = streamed.with_suffix(".raw")
    command = ["qemu-img", "convert", "-f", "vmdk", "-O", "raw", str(streamed), str(raw)]
    subprocess.run(command, check=True, capture_output=True)
    return raw.read_bytes()


@pytest.fixture
def lease(sim: Simulator, vm: Any) -> Any:
    """Of a snapshot with data here and there; the guest goes on."""
    for place in (0, 3 * MIB - 17, 4 * MIB - 512):
        sim.do.write("web1", DISK, place, b"frozen" * 80)
    snapshot = take_snapshot(vm, "s")
    sim.do.write("web1", DISK, 0, b"moving" * 80)
    return snapshot.ExportSnapshot()


def test_a_lease_has_a_url_for_each_disk(sim: Simulator, vm: Any, lease: Any) -> None:
    info = lease.info

    assert lease.state == "ready"
    assert (lease.initializeProgress, lease.transferProgress, lease.error) == (100, 0, None)
    assert info.entity == vm
    assert info.lease == lease
    assert info.leaseTimeout == 300
    assert info.totalDiskCapacityInKB == 6 * 1024
    assert [each.disk for each in info.deviceUrl] == [True, True]
    assert {each.sslThumbprint for each in info.deviceUrl} == {sim.certificate.thumbprint_sha1}


def test_a_download_is_the_snapshot_as_a_stream_optimized_vmdk(
    sim: Simulator, lease: Any, tmp_path: Path
) -> None:
    for key, url in zip((2000, 2001), lease.info.deviceUrl, strict=True):
        streamed = tmp_path / "disk.vmdk"
        streamed.write_bytes(download(sim, url.url))

        assert plain(streamed) == Path(sim.do.truth("s", key)["path"]).read_bytes()
        assert streamed.stat().st_size < MIB // 2


def test_nobody_without_the_ticket_gets_a_disk(sim: Simulator, lease: Any) -> None:
    url = lease.info.deviceUrl[0].url
    wrong = url.replace(url.split("/")[-2], "52fc0dd4-0000-0000-0000-000000000000")

    with pytest.raises(urllib.error.HTTPError, match="404"):
        download(sim, wrong)


def test_a_url_may_leave_the_host_to_the_client(sim: Simulator, lease: Any) -> None:
    sim.knobs.change("data", lease_star=True)

    assert lease.info.deviceUrl[0].url.startswith(f"https://*:{sim.port}/nfc/")


def test_progress_is_shown_and_completion_ends_it(sim: Simulator, vm: Any, lease: Any) -> None:
    url = lease.info.deviceUrl[0].url
    lease.HttpNfcLeaseProgress(42)
    percent = lease.transferProgress
    lease.HttpNfcLeaseComplete()

    assert percent == 42
    assert lease.state == "done"
    assert lease.info is None
    with pytest.raises(urllib.error.HTTPError, match="404"):
        download(sim, url)
    with pytest.raises(vim.fault.InvalidState):
        lease.HttpNfcLeaseProgress(100)
    finished(vm.RemoveAllSnapshots_Task())


def test_progress_keeps_a_lease_alive_and_silence_ends_it(
    sim: Simulator, vm: Any, lease: Any
) -> None:
    for percent in (10, 20, 30):
        sim.do.advance(250)
        lease.HttpNfcLeaseProgress(percent)
    sim.do.advance(301)

    assert lease.state == "error"
    assert isinstance(lease.error, vim.fault.Timedout)
    with pytest.raises(vim.fault.Timedout):
        lease.HttpNfcLeaseComplete()
    finished(vm.RemoveAllSnapshots_Task())


def test_a_lease_can_be_aborted(vm: Any, lease: Any) -> None:
    lease.HttpNfcLeaseAbort(None)

    assert lease.state == "error"
    assert isinstance(lease.error, vmodl.fault.RequestCanceled)
    finished(vm.RemoveAllSnapshots_Task())


def test_what_would_change_the_machine_waits_for_the_end(vm: Any, lease: Any) -> None:
    for start in (
        vm.PowerOffVM_Task,
        lambda: vm.CreateSnapshot_Task("other", "", False, False),
        vm.RemoveAllSnapshots_Task,
        vm.snapshot.currentSnapshot.RevertToSnapshot_Task,
        lambda: vm.ReconfigVM_Task(vim.vm.ConfigSpec(name="x")),
    ):
        with pytest.raises(vim.fault.InvalidState):
            finished(start())
    with pytest.raises(vim.fault.TaskInProgress):
        vm.snapshot.currentSnapshot.ExportSnapshot()
    with pytest.raises(vim.fault.InvalidState):
        vm.ShutdownGuest()

    assert [each.name for each in vm.snapshot.rootSnapshotList] == ["s"]
    assert vm.runtime.powerState == "poweredOn"


def test_a_lease_ends_with_its_session(sim: Simulator, vm: Any) -> None:
    snapshot = take_snapshot(vm)
    with connected(sim) as other:
        exported = machine(other).snapshot.currentSnapshot.ExportSnapshot()
        url = exported.info.deviceUrl[0].url
        assert download(sim, url)[:4] == b"KDMV"

    with pytest.raises(urllib.error.HTTPError, match="404"):
        download(sim, url)
    finished(snapshot.RemoveSnapshot_Task(False))


def test_a_lease_can_take_its_time(sim: Simulator, service: Any, vm: Any) -> None:
    snapshot = take_snapshot(vm)
    sim.knobs.change("task", seconds=60)
    exported = snapshot.ExportSnapshot()
    before = (exported.state, exported.info)
    collector = service.content.propertyCollector
    watch(service, exported, ["state"])
    update = collector.WaitForUpdatesEx("", None)
    assert changes(update) == {"state": "initializing"}
    sim.do.advance(61)
    update = collector.WaitForUpdatesEx(update.version, None)

    assert before == ("initializing", None)
    assert changes(update) == {"state": "ready"}
    assert len(exported.info.deviceUrl) == 2


def test_a_machine_that_is_off_can_be_exported_as_it_is(
    sim: Simulator, vm: Any, tmp_path: Path
) -> None:
    with pytest.raises(vim.fault.InvalidPowerState):
        vm.ExportVm()
    sim.do.power("web1", "off")
    sim.do.write("web1", DISK, MIB, b"as it is")
    exported = vm.ExportVm()
    streamed = tmp_path / "disk.vmdk"
    streamed.write_bytes(download(sim, exported.info.deviceUrl[0].url))

    assert plain(streamed)[MIB : MIB + 8] == b"as it is"


def test_an_export_takes_a_privilege() -> None:
    poor = UserEntry("poor", "pw", denied=("VApp.Export",))
    with Simulator(inventory(users=(poor,))) as sim, connected(sim) as service:
        snapshot = take_snapshot(machine(service))

        with pytest.raises(vim.fault.NoPermission) as refused:
            snapshot.ExportSnapshot()
        assert refused.value.privilegeId == "VApp.Export"


@pytest.mark.parametrize(
    ("action", "error"), [("eio", urllib.error.HTTPError), ("short", IncompleteRead)]
)
def test_downloads_fail_on_request(
    sim: Simulator, vm: Any, lease: Any, action: str, error: type[Exception]
) -> None:
    sim.do.on_read(action=action, export=f"{vm._moId}/*/{DISK}")

    with pytest.raises(error):
        download(sim, lease.info.deviceUrl[0].url)


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    size=st.integers(1, 40_000).map(lambda sectors: sectors * 512),
    places=st.lists(st.integers(0, 40_000 * 512), max_size=5),
)
def test_any_sparse_disk_can_be_streamed(tmp_path: Path, size: int, places: list[int]) -> None:
    image, streamed = tmp_path / "image.raw", tmp_path / "disk.vmdk"
    with image.open("wb") as file:
        file.truncate(size)
        for place in places:
            file.seek(min(place % size, size - 1))
            file.write(b"data!"[: size - file.tell()])
    with image.open("rb") as source, streamed.open("wb") as target:
        write_streamed(source.fileno(), size, "disk.vmdk", target)

    assert plain(streamed) == image.read_bytes()


def test_a_huge_thin_disk_streams_only_its_data(tmp_path: Path) -> None:
    image, streamed = tmp_path / "image.raw", tmp_path / "disk.vmdk"
    size = 1 << 37
    with image.open("wb") as file:
        file.truncate(size)
        file.seek(size - GRAIN)
        file.write(b"at the end")
    with image.open("rb") as source, streamed.open("wb") as target:
        write_streamed(source.fileno(), size, "disk.vmdk", target)
    found = subprocess.run(
        ["qemu-img", "compare", "-f", "vmdk", "-F", "raw", str(streamed), str(image)],
        check=False,
        capture_output=True,
        text=True,
    )

    assert found.returncode == 0, found.stdout
    assert streamed.stat().st_size < MIB
