"""Rules for every transport: size, bytes, holes, threads, errors, closed resources."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from cbtfs.core.extent import Extent, complement
from cbtfs.errors import SourceUnavailable, UsageError
from cbtfs.ingest.vsphere.vm import ingest_machine
from cbtfs.source.transport.base import DiskReader, Transport, TransportDisk
from cbtfs.source.transport.choose import choose
from cbtfs.source.transport.datastore import DatastoreTransport, flat_file
from cbtfs.source.transport.nbd import NbdTransport
from cbtfs.source.transport.nbdkit import NbdkitTransport
from cbtfs.source.vsphere.inventory.vms import list_vms
from tests.scenarios.vsphere import nbdkit
from tests.scenarios.vsphere.site import (
    FIRST,
    MIB,
    TRANSPORTS,
    VM,
    Lab,
    by_datastore,
    by_httpnfc,
    by_nbd,
    new_lab,
    one_vm,
)
from tools.vsim import DiskEntry, ServerEntry, Simulator
from tools.vsim.soap.certificate import Certificate

SIZE = 3 * MIB + 512
"""A multiple of the sector size, but of no larger block size."""


@dataclass
class Case:
    """A snapshot disk, a transport that reads it, and the expected content."""

    lab: Lab
    transport: Transport
    disk: TransportDisk
    content: bytes


@pytest.fixture(params=["datastore", "nbd", "nbdkit", "nfc", "vddk", "httpnfc"])
def case(
    request: pytest.FixtureRequest, tmp_path: Path, certificate: Certificate
) -> Iterator[Case]:
    with Simulator(one_vm(DiskEntry(size=SIZE)), certificate=certificate) as sim:
        lab = new_lab(sim, tmp_path)
        lab.write(10_000, bytes(range(256)) * 4000)
        lab.write(SIZE - 700, b"the end" * 100)
        snapshot = sim.do.snapshot(VM, "case")
        content = Path(sim.do.truth(snapshot, FIRST)["path"]).read_bytes()
        lab.write(0, b"what the guest writes later" * 10_000)
        folder = tmp_path / "nbdkit"
        folder.mkdir()
        makers: dict[str, Any] = {
            **TRANSPORTS,
            "nbdkit": nbdkit.by_nbdkit(folder),
            "httpnfc": by_httpnfc,
        }
        with lab.session() as session:
            (vm,) = list_vms(session)
            disk = TransportDisk(
                "Hard disk 1", vm.id, snapshot, FIRST, SIZE, "[datastore1] web1/web1.vmdk",
                "VMFS", vm.datacenter, is_flat=True, is_alone=True, slot="scsi0:0", is_whole=True,
            )  # fmt: skip
            yield Case(lab, makers[request.param](sim, session), disk, content)


@pytest.fixture
def reader(case: Case) -> Iterator[DiskReader]:
    assert case.transport.refusal(case.disk) is None
    opened = case.transport.open(case.disk)
    yield opened
    opened.close()


def test_the_size_is_the_disks(reader: DiskReader) -> None:
    assert reader.size == SIZE


@pytest.mark.parametrize(
    ("start", "length"),
    [(0, 1), (0, SIZE), (511, 2), (9_999, 70_001), (SIZE - 1, 1), (SIZE - 513, 513), (65536, MIB)],
)
def test_any_extent_equals_the_snapshot_disk(
    case: Case, reader: DiskReader, start: int, length: int
) -> None:
    expected = case.content[start : start + length]
    memory = memoryview(bytearray(length))

    reader.read_into(Extent(start, length), [memory[: length // 3], memory[length // 3 :]])

    assert reader.read(Extent(start, length)) == expected
    assert memory == expected


def test_several_threads_read_at_once(case: Case, reader: DiskReader) -> None:
    extents = [Extent(at, 40_000) for at in range(0, SIZE - 40_000, 33_333)]
    with ThreadPoolExecutor(6) as pool:
        contents = list(pool.map(lambda extent: bytes(reader.read(extent)), extents))

    assert contents == [case.content[e.start : e.end] for e in extents]


def test_unallocated_extents_are_zeros(case: Case, reader: DiskReader) -> None:
    for hole in complement(reader.allocated(), SIZE):
        assert not any(case.content[hole.start : hole.end])


def test_a_read_beyond_the_end_fails(reader: DiskReader) -> None:
    with pytest.raises(SourceUnavailable):
        reader.read(Extent(SIZE - 512, 1024))
    with pytest.raises(SourceUnavailable):
        reader.read_into(Extent(SIZE - 512, 1024), [memoryview(bytearray(1024))])


PRIVILEGES = {
    "datastore": {"datastore"},
    "nbd": set[str](),
    "nbdkit": {"vddk"},
    "nfc": {"nfc"},
    "vddk": {"vddk", "hold"},
    "httpnfc": {"export"},
}


def test_a_transport_names_the_privileges_it_needs(
    case: Case, request: pytest.FixtureRequest
) -> None:
    name = request.node.callspec.params["case"]

    assert case.transport.privileges == PRIVILEGES[name]


def test_vddk_holds_no_vm_on_a_host_without_vcenter(
    tmp_path: Path, certificate: Certificate
) -> None:
    inventory = replace(one_vm(), server=ServerEntry(kind="esxi"))
    with (
        Simulator(inventory, certificate=certificate) as sim,
        new_lab(sim, tmp_path).session() as session,
    ):
        assert TRANSPORTS["vddk"](sim, session).privileges == {"vddk"}


def test_a_missing_disk_cannot_be_opened(case: Case) -> None:
    gone = replace(case.disk, snapshot="snapshot-77", path="[datastore1] web1/none.vmdk")
    with pytest.raises(SourceUnavailable):
        case.transport.open(gone)


def test_a_disk_of_another_size_is_refused(case: Case) -> None:
    with pytest.raises(SourceUnavailable):
        case.transport.open(replace(case.disk, size=SIZE + 512))


def test_nothing_stays_open(case: Case) -> None:
    reader = case.transport.open(case.disk)
    reader.read(Extent(0, SIZE))
    reader.close()
    machine = case.lab.sim.do.find_vm(VM)
    with case.lab.sim.world.changed:
        gone = case.lab.sim.world.changed.wait_for(lambda: not +machine.readers, 10)

    assert gone


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"is_alone": False}, "another snapshot"),
        ({"is_flat": False}, "not a flat file"),
        ({"datastore_type": "vsan"}, "of type vsan"),
        ({"datastore_type": "VVOL"}, "of type VVOL"),
    ],
)
def test_the_datastore_transport_refuses_disks_it_cannot_read(
    lab: Lab, change: dict[str, Any], words: str
) -> None:
    disk = TransportDisk(
        "d", "vm-1", "snapshot-1", 2000, MIB, "[d] a/a.vmdk", "VMFS", "DC0", True, True
    )
    with lab.session() as session:
        transport = DatastoreTransport(session.web())
        refusal = transport.refusal(replace(disk, **change))
        with pytest.raises(SourceUnavailable, match=words):
            transport.open(replace(disk, **change))

    assert words in str(refusal)


DESCRIPTOR = 'version=1\nRW 2048 VMFS "a-flat.vmdk"\nddb.uuid = "x"\n'


@pytest.mark.parametrize(
    "descriptor",
    [
        'RW 2047 VMFS "a-flat.vmdk"',
        'RW 2048 SESPARSE "a-sesparse.vmdk"',
        'RW 2048 VMFS "../b/b-flat.vmdk"',
        'RW 1024 VMFS "a-f1.vmdk"\nRW 1024 VMFS "a-f2.vmdk"',
        'RW 2048 FLAT "a-flat.vmdk" 128',
        'parentFileNameHint="b.vmdk"\nRW 2048 VMFS "a-flat.vmdk"',
        pytest.param(f'RW {"8" * 5000} VMFS "a-flat.vmdk"', id="a number that Python refuses"),
        "",
    ],
)
def test_only_the_descriptor_of_one_whole_flat_file_is_followed(descriptor: str) -> None:
    disk = TransportDisk(
        "d", "vm-1", "snapshot-1", 2000, MIB, "[d] a/a.vmdk", "VMFS", "DC0", True, True
    )

    assert flat_file(DESCRIPTOR, disk) == "a-flat.vmdk"
    with pytest.raises(SourceUnavailable):
        flat_file(descriptor, disk)


@pytest.mark.parametrize(
    "template", ["nbd://h/{cookie}", "nbd://h/{vm", "http://h/{vm}", "nbd://h/{}"]
)
def test_an_invalid_template_is_refused(template: str) -> None:
    with pytest.raises(UsageError, match="--nbd-uri"):
        NbdTransport(template)


def test_auto_takes_the_best_and_names_the_reasons_if_none_works(
    case: Case, tmp_path: Path
) -> None:
    with case.lab.session() as session:
        datastore = DatastoreTransport(session.web())
        missing = NbdkitTransport(session.vddk_login(tmp_path), str(tmp_path / "none"))

        assert choose([missing, datastore], [case.disk]).transport is datastore
        with pytest.raises(
            SourceUnavailable, match=r"nbd: .* not installed.*; datastore: .*another snapshot"
        ):
            choose([missing, datastore], [replace(case.disk, is_alone=False)])


def test_an_nbdkit_without_the_plugin_is_no_transport(lab: Lab, tmp_path: Path) -> None:
    program = tmp_path / "nbdkit"
    program.write_text("#!/bin/sh\necho 'nbdkit: error: cannot open plugin vddk' >&2\nexit 1\n")
    program.chmod(0o755)
    disk = TransportDisk(
        "d", "vm-1", "snapshot-1", 2000, MIB, "[d] a/a.vmdk", "VMFS", "DC0", True, True
    )
    with lab.session() as session:
        refusal = NbdkitTransport(session.vddk_login(tmp_path), str(program)).refusal(disk)

    assert refusal == "nbdkit has no working vddk plugin: nbdkit: error: cannot open plugin vddk"


def test_nbdkit_gets_the_parameters_of_vmwares_library(lab: Lab, tmp_path: Path) -> None:
    folder = tmp_path / "vddk"
    folder.mkdir()
    lab.make_transport = nbdkit.by_nbdkit(folder)
    lab.ingest()
    lab.assert_all_true()
    first = nbdkit.started(folder)[0]
    options = first["options"]

    assert first["password"] == lab.sim.user.password
    assert lab.sim.user.password not in first["command"]
    assert options["thumbprint"] == lab.sim.certificate.thumbprint_sha1
    assert options["vm"] == "moref=vm-101"
    assert options["snapshot"].startswith("snapshot-")
    assert options["server"] == lab.sim.host
    assert options["port"] == str(lab.sim.port)


def test_the_last_output_of_nbdkit_is_reported_without_the_password(
    lab: Lab, tmp_path: Path
) -> None:
    nbdkit.install(tmp_path)
    lab.make_transport = lambda sim, session: NbdkitTransport(
        session.vddk_login(tmp_path), str(tmp_path / "nbdkit")
    )
    with pytest.raises(SourceUnavailable, match="wrong password … or no such disk"):
        lab.ingest()
    lab.assert_clean()


@pytest.mark.parametrize("status", [500, 404, 416])
def test_a_refused_base_disk_selects_the_next_transport(lab: Lab, status: int) -> None:
    lab.sim.knobs.change("data", base_locked=True, locked_status=status)
    with lab.context() as context:
        both = replace(
            context,
            transports=[by_datastore(lab.sim, context.session), by_nbd(lab.sim, context.session)],
        )
        (vm,) = list_vms(context.session)
        manifest = ingest_machine(both, vm).manifest
    (refusal,) = manifest.metadata["transports_refused"]

    assert manifest.metadata["transport"] == "nbd"
    assert refusal.startswith("datastore: Hard disk 1: cannot read [datastore1] web1/web1")
    assert f"the server answers {status}" in refusal
    lab.assert_true(manifest)
    lab.assert_clean()


def test_a_refused_base_disk_without_another_transport_leaves_nothing(lab: Lab) -> None:
    lab.sim.knobs.change("data", base_locked=True)

    with pytest.raises(
        SourceUnavailable, match=r"disk Hard disk 1: cannot read .*the server answers 500"
    ):
        lab.ingest()

    lab.assert_clean()


def test_a_vm_that_is_off_is_not_probed(lab: Lab) -> None:
    lab.sim.knobs.change("data", base_locked=True)
    lab.sim.do.power(VM, "off")

    assert lab.ingest().manifest.metadata["transport"] == "datastore"
    lab.assert_all_true()
