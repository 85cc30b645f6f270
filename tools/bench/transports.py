"""Rows on the transports of vSphere, against the simulator."""

import json
import os
import select
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from cbtfs.core.audit import Sampling
from cbtfs.core.extent import Extent
from cbtfs.core.proving import Proving
from cbtfs.ingest.fleet.schedule import FleetLimits
from cbtfs.ingest.inputs import no_progress
from cbtfs.ingest.vsphere.captures import CaptureReports, CaptureSetup, capture_all
from cbtfs.ingest.vsphere.options import IngestOptions
from cbtfs.source.secret import Secret
from cbtfs.source.transport.base import Transport, TransportDisk
from cbtfs.source.transport.nbd import NbdTransport
from cbtfs.source.transport.nfc.options import NfcOptions
from cbtfs.source.transport.nfc.ticket import Ticket, TicketOffice
from cbtfs.source.transport.nfc.transport import NfcTransport
from cbtfs.source.vsphere.connect.address import Address
from cbtfs.source.vsphere.connect.session import Credentials, Session
from cbtfs.source.vsphere.connect.tls import verifying
from cbtfs.source.vsphere.inventory.vms import list_vms, select_all
from cbtfs.store.repository import writing
from tools.bench.bench import Bench
from tools.bench.content import BLOCK, Content
from tools.bench.row import OURS, Goal, Row, alternate
from tools.vsimctl import Remote

NBD: Final = "nbd without TLS from the simulator"
TLS: Final = "TLS copy of the same bytes"
ALL: Final = "without star"
BY_NBD: Final = "nbd"
VM: Final = "web1"
_KEY: Final = 2000
_READ: Final = 4 << 20
_THREADS: Final = 2
_USED: Final = 50
"""One part of so many of the thin disk has data."""
_DISKS: Final = 4
_MIB: Final = 1 << 20
_WARM: Final = "page cache of the simulator warm"


@dataclass(frozen=True, slots=True)
class Site:
    """A simulator in a process of its own."""

    ready: dict[str, Any]
    do: Remote

    @contextmanager
    def session(self) -> Iterator[Session]:
        tls = verifying(Path(self.ready["certificate"]))
        credentials = Credentials(self.ready["user"], Secret(self.ready["password"]))
        with Session(Address(self.ready["host"], self.ready["port"]), tls, credentials) as session:
            yield session

    def disks(self) -> list[Path]:
        """Return the raw files of the VM's disks."""
        (vm,) = self.do.vms()
        return [Path(disk["file"]) for disk in vm["disks"]]


@contextmanager
def simulated(folder: Path, sizes: Sequence[int]) -> Iterator[Site]:
    """Simulate a vCenter with one tracked VM that has disks of these sizes in bytes."""
    inventory = folder / "inventory.toml"
    disks = "".join(f"[[vm.disk]]\nsize = {size}\n" for size in sizes)
    inventory.write_text(f'[[vm]]\nname = "{VM}"\ncbt = true\n{disks}')
    command = [sys.executable, "-m", "tools.vsim", "--inventory", str(inventory)]
    command += ["--state", str(folder / "vsim")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            ready = json.loads(process.stdout.readline())
            yield Site(ready, Remote(ready["url"], ready["certificate"], ready["token"]))
        finally:
            process.terminate()


def fill(path: Path, blocks: Sequence[int], content: Content) -> None:
    """Write random bytes to these blocks of a disk."""
    with path.open("r+b") as file:
        for block in blocks:
            file.seek(block * BLOCK)
            file.write(content.block("random"))


def read_rows(bench: Bench) -> Iterator[Row]:
    """Measure reads of a full disk by NFC, by NBD without TLS, and a copy over TLS alone.

    NBD has no TLS here, so only the row without TLS compares the protocols.
    """
    size = bench.sizes.disk // 4
    with bench.scratch() as scratch, simulated(scratch, [size]) as site, site.session() as session:
        (image,) = site.disks()
        fill(image, range(size // BLOCK), Content("nfc"))
        snapshot = site.do.snapshot(vm=VM, name="bench")
        (vm,) = select_all(list_vms(session), [VM]).vms
        disk = TransportDisk(
            *("disk", vm.id, snapshot, _KEY, size, f"[datastore1] {VM}/{VM}.vmdk", "VMFS", "DC0"),
            is_flat=True,
            is_alone=True,
        )
        nbd = NbdTransport(site.ready["nbd"] + "{vm}/{snapshot}/{key}")
        copied = Path(site.ready["state"]) / "snapshots" / snapshot / f"{_KEY}.raw"
        measures: dict[str, Callable[[], float]] = {
            OURS: lambda: _read(NfcTransport(session.web()), disk),
            NBD: lambda: _read(nbd, disk),
            TLS: lambda: _copy(site, copied, size),
        }
        samples = alternate(measures, bench.sizes.few + 2)
        unencrypted = NfcTransport(session.web(), NfcOptions(mode="clear"))
        in_clear: dict[str, Callable[[], float]] = {
            OURS: lambda: _read(unencrypted, disk),
            NBD: lambda: _read(nbd, disk),
        }
        clear_samples = alternate(in_clear, bench.sizes.few + 2)
    goals = [Goal(0.8, NBD), Goal(0.7, TLS)]
    yield Row("read by NFC over TLS", "MB/s", True, _WARM, samples, goals)
    goals = [Goal(0.8, NBD)]
    yield Row("read by NFC without TLS", "MB/s", True, _WARM, clear_samples, goals)


def _read(transport: Transport, disk: TransportDisk) -> float:
    """Return the rate in MB/s at which *transport* reads the whole disk."""
    reader = transport.open(disk)
    try:
        began = time.monotonic()
        threads = [
            threading.Thread(target=_read_part, args=(reader, disk.size, number))
            for number in range(_THREADS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return disk.size / (time.monotonic() - began) / 1e6
    finally:
        reader.close()


def _read_part(reader: Any, size: int, number: int) -> None:
    memory = memoryview(bytearray(_READ))
    for at in range(number * _READ, size, _READ * _THREADS):
        length = min(_READ, size - at)
        reader.read_into(Extent(at, length), [memory[:length]])


_SENDER: Final = """
import os, socket, ssl, sys
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.maximum_version = ssl.TLSVersion.TLSv1_2
context.load_cert_chain(sys.argv[1], sys.argv[2])
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
client, _ = listener.accept()
with context.wrap_socket(client, server_side=True) as stream, open(sys.argv[3], "rb") as file:
    while data := file.read(1 << 20):
        stream.sendall(data)
"""


def _copy(site: Site, path: Path, size: int) -> float:
    """Return the rate in MB/s at which another process sends the file *path* over TLS 1.2."""
    certificate = site.ready["certificate"]
    key = next(Path(certificate).parent.glob("*key*"))
    command = [sys.executable, "-c", _SENDER, certificate, str(key), str(path)]
    context = ssl.create_default_context(cafile=certificate)
    memory, left = memoryview(bytearray(_READ)), size
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as sender:
        assert sender.stdout is not None
        port = int(sender.stdout.readline())
        with (
            socket.create_connection(("127.0.0.1", port)) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as stream,
        ):
            began = time.monotonic()
            while left and (count := stream.recv_into(memory)):
                left -= count
            seconds = time.monotonic() - began
    return size / seconds / 1e6


def star_rows(bench: Bench) -> Iterator[Row]:
    """Measure the bytes that a full of a thin disk reads, with and without --allocation star."""
    size = bench.sizes.thin_full
    read: dict[str, list[float]] = {}
    with bench.scratch() as scratch, simulated(scratch, [size]) as site:
        (image,) = site.disks()
        step = _MIB // BLOCK
        starts = range(0, size // BLOCK, step * _USED)
        blocks = [number for start in starts for number in range(start, start + step)]
        fill(image, blocks, Content("star"))
        for name, method in ((OURS, "star"), (ALL, "transport")):
            repository = scratch / method
            bench.programs[0].run(repository, "init")
            os.environ["CBTFS_VSPHERE_PASSWORD"] = site.ready["password"]
            done = bench.programs[0].run(
                repository,
                *("ingest", "vsphere", "--json", "-q", "--transport", "datastore"),
                *("--allocation", method, "--server"),
                f"{site.ready['host']}:{site.ready['port']}",
                *("--user", site.ready["user"], "--ca-file", site.ready["certificate"], VM),
            )
            disk = json.loads(done.output)["points"][0]["disks"][0]
            sampled = disk["allocation"]["read_bytes"]
            read[name] = [(disk["read_bytes"] + sampled) / _MIB]
            shutil.rmtree(repository)
    name = f"first full by datastore of a thin disk of {size >> 20} MiB, 2 % used"
    yield Row(name, "MiB read", False, _WARM, read, [Goal(10, ALL)])


class RoundTrips:
    """A proxy that counts how often a client waits: it sends after it has received, or first."""

    def __init__(self, port: int) -> None:
        self.count = 0
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._relay, args=(client,), daemon=True).start()

    def _relay(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._target)) as server:
            is_answered = True
            while True:
                for ready in select.select([client, server], [], [])[0]:
                    try:
                        data = ready.recv(1 << 16)
                        if not data:
                            return
                        (server if ready is client else client).sendall(data)
                    except OSError:
                        return
                    if ready is client:
                        self.count += is_answered
                    is_answered = ready is server

    def close(self) -> None:
        self._listener.close()


class _ProxiedTickets(TicketOffice):
    """Tickets that lead to a proxy."""

    def __init__(self, web: Any, port: int) -> None:
        super().__init__(web)
        self._port = port

    def ticket(self, vm: str) -> Ticket:
        return replace(super().ticket(vm), port=self._port)


def trip_rows(bench: Bench) -> Iterator[Row]:
    """Count the round trips of the data plane in an incremental of four disks without changes."""
    trips: dict[str, list[float]] = {}
    for name in (OURS, BY_NBD):
        with (
            bench.scratch() as scratch,
            simulated(scratch, [16 * _MIB] * _DISKS) as site,
            site.session() as session,
            ExitStack() as stack,
        ):
            for image in site.disks():
                fill(image, range(0, 16 * _MIB // BLOCK, 8), Content("trips"))
            is_ours = name == OURS
            uri = site.ready["nbd"]
            port = site.ready["nfc_port"] if is_ours else int(uri.rstrip("/").rpartition(":")[2])
            proxy = RoundTrips(port)
            stack.callback(proxy.close)
            transport: Transport
            if is_ours:
                ours = NfcTransport(session.web())
                ours._access = replace(
                    ours._access,
                    tickets=_ProxiedTickets(session.web(), proxy.port),
                )
                transport = ours
            else:
                transport = NbdTransport(
                    f"nbd://127.0.0.1:{proxy.port}/{{vm}}/{{snapshot}}/{{key}}"
                )
            bench.programs[0].run(scratch / "repository", "init")
            counts = []
            for _ in range(2):
                before = proxy.count
                _take(scratch / "repository", session, transport)
                counts.append(proxy.count - before)
        trips[name] = [float(counts[-1])]
    # The goal is the reverse of 1.5 times.
    yield Row(
        "incremental of 4 disks without changes",
        "round trips",
        False,
        _WARM,
        trips,
        [Goal(1 / 1.5, BY_NBD)],
    )


def _take(repository: Path, session: Session, transport: Transport) -> None:
    """Take a point of the VM; raise the error of the capture."""
    options = IngestOptions(audit=Sampling(0.001), proving=Proving())
    setup = CaptureSetup(options, FleetLimits(1, None, None), lambda _: [transport])
    reports = CaptureReports(lambda vm: no_progress, lambda ended: None)
    vms = select_all(list_vms(session), [VM]).vms
    with writing(repository) as opened:
        results = capture_all(opened, session, setup, vms, reports, threading.Event())
    for _, error in results.failed:
        raise error
