"""Export leases: downloads of whole disks, and protection of the machine."""

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
    """Convert a streamOptimized file to raw with QEMU; return its bytes."""
    raw = streamed.with_suffix(".raw")
    command = ["qemu-img", "convert", "-f", "vmdk", "-O", "raw", str(streamed), str(raw)]
    subprocess.run(command, check=True, capture_output=True)
    return raw.read_bytes()


@pytest.fixture
def lease(sim: Simulator, vm: Any) -> Any:
    """Return the lease of a snapshot with scattered data; the guest writes more afterwards."""
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
    assert [device_url.disk for device_url in info.deviceUrl] == [True, True]
    assert {device_url.sslThumbprint for device_url in info.deviceUrl} == {
        sim.certificate.thumbprint_sha1
    }


def test_a_download_is_the_snapshot_as_a_stream_optimized_vmdk(
    sim: Simulator, lease: Any, tmp_path: Path
) -> None:
    for key, url in zip((2000, 2001), lease.info.deviceUrl, strict=True):
        streamed = tmp_path / "disk.vmdk"
        streamed.write_bytes(download(sim, url.url))

        assert plain(streamed) == Path(sim.do.truth("s", key)["path"]).read_bytes()
        assert streamed.stat().st_size < MIB // 2


def test_a_download_requires_the_ticket(sim: Simulator, lease: Any) -> None:
    url = lease.info.deviceUrl[0].url
    wrong = url.replace(url.split("/")[-2], "52fc0dd4-0000-0000-0000-000000000000")

    with pytest.raises(urllib.error.HTTPError, match="404"):
        download(sim, wrong)


def test_the_host_of_a_url_can_be_a_star(sim: Simulator, lease: Any) -> None:
    sim.knobs.change("data", lease_star=True)

    assert lease.info.deviceUrl[0].url.startswith(f"https://*:{sim.port}/nfc/")


def test_a_lease_shows_progress_until_completion(sim: Simulator, vm: Any, lease: Any) -> None:
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


def test_a_lease_times_out_without_progress(sim: Simulator, vm: Any, lease: Any) -> None:
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


def test_tasks_on_the_machine_are_refused_until_the_lease_ends(vm: Any, lease: Any) -> None:
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

    assert [root.name for root in vm.snapshot.rootSnapshotList] == ["s"]
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


def test_a_lease_can_initialize_slowly(sim: Simulator, service: Any, vm: Any) -> None:
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


def test_a_machine_that_is_off_can_be_exported(sim: Simulator, vm: Any, tmp_path: Path) -> None:
    with pytest.raises(vim.fault.InvalidPowerState):
        vm.ExportVm()
    sim.do.power("web1", "off")
    sim.do.write("web1", DISK, MIB, b"as it is")
    exported = vm.ExportVm()
    streamed = tmp_path / "disk.vmdk"
    streamed.write_bytes(download(sim, exported.info.deviceUrl[0].url))

    assert plain(streamed)[MIB : MIB + 8] == b"as it is"


def test_an_export_requires_a_privilege() -> None:
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
    offsets=st.lists(st.integers(0, 40_000 * 512), max_size=5),
)
def test_any_sparse_disk_can_be_streamed(tmp_path: Path, size: int, offsets: list[int]) -> None:
    image, streamed = tmp_path / "image.raw", tmp_path / "disk.vmdk"
    with image.open("wb") as file:
        file.truncate(size)
        for place in offsets:
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
    done = subprocess.run(
        ["qemu-img", "compare", "-f", "vmdk", "-F", "raw", str(streamed), str(image)],
        check=False,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stdout
    assert streamed.stat().st_size < MIB
