"""The fault matrix of NFC against the transport: the right bytes, or one clear error."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import pytest

from cbtfs.core.extent import Extent, complement
from cbtfs.errors import SourceUnavailable
from cbtfs.source.transport.base import TransportDisk
from cbtfs.source.transport.nfc.options import NfcOptions
from cbtfs.source.transport.nfc.transport import NfcTransport
from cbtfs.source.transport.nfc.wire import Compression
from cbtfs.source.vsphere.connect.session import Session
from cbtfs.source.vsphere.inventory.vms import list_vms
from tests.scenarios.vsphere.site import FIRST, MIB, VM, Lab, new_lab, one_vm
from tests.tools.vsim.nfc_matrix import MATRIX, Case
from tools.vsim import DiskEntry, Simulator
from tools.vsim.soap.certificate import Certificate

SIZE: Final = MIB + 512
ALL: Final = "CBTFS_NFC_MATRIX" in os.environ
"""CBTFS_NFC_MATRIX=1 runs every case; otherwise each action runs at one or two points."""
WAIT: Final = 0.3
"""Seconds that the client waits for an answer in cases that do not get one."""


@dataclass
class Host:
    """A simulator with the snapshot of a running VM, and a session."""

    lab: Lab
    session: Session
    disk: TransportDisk
    content: bytes

    def options(self, case: Case) -> NfcOptions:
        options = NfcOptions(mode="clear" if case.mode == "clear" else "ssl")
        if case.code is not None:
            options = replace(options, compression=Compression(case.code))
        if case.waits:
            options = replace(options, answer_seconds=WAIT, open_seconds=WAIT * 3)
        return options

    def read_all(self, options: NfcOptions) -> bytes:
        """Read the whole disk as a capture does, and its allocation."""
        web = self.session.web()._replace(pauses=(), busy=())
        reader = NfcTransport(web, options).open(self.disk)
        try:
            data = bytes(reader.read(Extent(0, SIZE)))
            holes = complement(reader.allocated(), SIZE)
            assert not any(any(self.content[hole.start : hole.end]) for hole in holes)
            return data
        finally:
            reader.close()


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory, certificate: Certificate) -> Iterator[Host]:
    with Simulator(one_vm(DiskEntry(size=SIZE)), certificate=certificate) as sim:
        lab = new_lab(sim, tmp_path_factory.mktemp("matrix"))
        lab.write(10_000, bytes(range(256)) * 1000)
        lab.write(400_000, os.urandom(400_000))
        lab.write(SIZE - 700, b"the end" * 100)
        snapshot = sim.do.snapshot(VM, "case")
        content = Path(sim.do.truth(snapshot, FIRST)["path"]).read_bytes()
        lab.write(0, b"what the guest writes later" * 10_000)
        with lab.session() as session:
            (vm,) = list_vms(session)
            disk = TransportDisk(
                "Hard disk 1", vm.id, snapshot, FIRST, SIZE, "[datastore1] web1/web1.vmdk",
                "VMFS", vm.datacenter, is_flat=True, is_alone=True,
            )  # fmt: skip
            yield Host(lab, session, disk, content)


def chosen() -> list[Case]:
    """Return the cases of this run."""
    cases, counts = [], Counter[str]()
    for case in MATRIX:
        kind = str(case.rule.get("action", case.name))
        counts[kind] += 1
        if ALL or counts[kind] <= (1 if case.waits else 2):
            cases.append(case)
    return cases


@pytest.mark.parametrize("case", chosen(), ids=lambda case: case.name)
def test_each_fault_gives_the_right_bytes_or_one_error(host: Host, case: Case) -> None:
    host.lab.sim.do.reset_knobs()
    host.lab.sim.knobs.change("snapshot", keep_truth=True)
    case.apply(host.lab.sim)
    try:
        data: bytes | str = host.read_all(host.options(case))
    except SourceUnavailable as exc:
        data = str(exc)
    finally:
        host.lab.sim.do.reset_knobs()

    if isinstance(data, str):
        assert case.outcome != "right", data
        assert len(data.splitlines()) == 1
        assert data.startswith(("cannot open [datastore1]", "cannot read [datastore1]"))
    else:
        assert case.outcome != "refused"
        assert data == host.content
