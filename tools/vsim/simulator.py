"""The simulator as a context manager: `with Simulator(inventory) as sim:`."""

import secrets
import ssl
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tools.vsim.api.site import SimulatedSite
from tools.vsim.data.exports import NbdServer, SnapshotExports
from tools.vsim.inventory import Inventory, InventoryError
from tools.vsim.knobs import Knobs
from tools.vsim.model.world import Host, World
from tools.vsim.nfc.server import NfcServer
from tools.vsim.operations import Operations
from tools.vsim.restart import Restarts
from tools.vsim.server.control import Control
from tools.vsim.server.dispatch import Dispatcher, is_known_version
from tools.vsim.server.folder import FolderService
from tools.vsim.server.https import HttpsServer
from tools.vsim.server.leases import LeaseService
from tools.vsim.server.library import LibraryServer
from tools.vsim.soap.certificate import Certificate, make_certificate

HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Listen:
    """Addresses to listen on; port 0 is a free port."""

    host: str = HOST
    port: int = 0
    """HTTPS port."""
    nbd: Path | int = 0
    """Port or Unix socket of the NBD server."""
    vddk_port: int = 0
    nfc_port: int = 0


class Simulator:
    """A simulated vCenter or ESXi host that serves from its creation until `close`.

    *state* is the directory of images and snapshots (default: a temporary directory). `do` has the
    operations of tests, `knobs` the configuration of faults. Without *certificate* the simulator
    reuses or creates one in *state*. *tls* is False for plain HTTP, or an SSL context.
    """

    def __init__(
        self,
        inventory: Inventory | None = None,
        state: Path | None = None,
        *,
        listen: Listen | None = None,
        certificate: Certificate | None = None,
        tls: bool | ssl.SSLContext = True,
    ) -> None:
        inventory = inventory or Inventory()
        listen = listen or Listen()
        if not is_known_version(inventory.server.api):
            raise InventoryError(f"invalid server.api {inventory.server.api!r}: unknown to pyVmomi")
        self._temporary = None if state else tempfile.TemporaryDirectory(prefix="vsim-")
        self.state = state or Path(self._temporary.name if self._temporary else "")
        self.state.mkdir(parents=True, exist_ok=True)
        self.knobs = Knobs()
        self.world = World(inventory, self.knobs, self.state)
        self.site = SimulatedSite(self.world, inventory.server.api)
        self.dispatcher = Dispatcher(self.site, inventory.server.api)
        vddk_calls: list[str] = []
        calls = self.dispatcher.calls
        self._restarts = Restarts(self.site)
        self.do = Operations(self.world, self.site, calls, vddk_calls, self._restarts)
        self.world.operate = self.do.perform
        self.token = secrets.token_hex(16)
        self.certificate = certificate or _certificate(self.state)
        if isinstance(tls, bool):
            context = self.certificate.server_context() if tls else None
        else:
            context = tls
        self.user = inventory.users[0]
        self._https = HttpsServer(
            (listen.host, listen.port),
            context,
            self.dispatcher,
            {"/folder": FolderService(self.site).answer, "/nfc/": LeaseService(self.site).answer},
            Control(self.do, self.token).answer,
        )
        nbd = listen.nbd if isinstance(listen.nbd, Path) else (listen.host, listen.nbd)
        self._nbd = NbdServer(nbd, SnapshotExports(self.world))
        self._restarts.server = self._https
        self.host = listen.host
        self.port = int(self._https.server_address[1])
        self.scheme = "https" if tls else "http"
        self.site.scheme, self.site.host, self.site.port = self.scheme, self.host, self.port
        self.site.thumbprint = self.certificate.thumbprint_sha1
        self._library = LibraryServer(
            (listen.host, listen.vddk_port), self.site, self._https, self.certificate, vddk_calls
        )
        self._nfc = NfcServer(
            (listen.host, listen.nfc_port), self.site, self.certificate, self.state
        )
        hosts = [host for host in self.world.hosts.values() if host.address]
        self._host_nfc = [self._nfc_of(host) for host in hosts]
        self._https.serve()
        self._threads = [
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            for server in (self._nbd, self._library, self._nfc, *self._host_nfc)
        ]
        for thread in self._threads:
            thread.start()

    def _nfc_of(self, host: Host) -> NfcServer:
        """Return the NFC server of a host with an address of its own, and another certificate."""
        certificate = make_certificate(
            self.state, stem=f"nfc-{host.address}", names=f"IP:{host.address}"
        )
        return NfcServer((host.address, 0), self.site, certificate, self.state, host.name)

    @property
    def url(self) -> str:
        """URL for SOAP clients."""
        return f"{self.scheme}://{self.host}:{self.port}/sdk"

    @property
    def nbd_uri(self) -> str:
        """URI of the NBD server; export names are <vm id>/<snapshot id>/<device key>."""
        return self._nbd.uri

    @property
    def vddk_port(self) -> int:
        """Port for the library of tools/vsim/vddk."""
        return self._library.port

    @property
    def nfc_port(self) -> int:
        """Port of the NFC server, which is also in every ticket."""
        return self.site.nfc.port

    def close(self) -> None:
        """End every connection and task; remove a temporary state directory."""
        with self.world.changing():
            self.site.closing = True
        self._restarts.close()
        self.site.tasks.close()
        self._https.go_away()
        self._nbd.stop()
        self._library.stop()
        for server in (self._nfc, *self._host_nfc):
            server.stop()
        for thread in self._threads:
            thread.join()
        if self._temporary:
            self._temporary.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _certificate(state: Path) -> Certificate:
    """Return the certificate of an earlier run on the same state, or a new one."""
    earlier = Certificate(state / "cert.pem", state / "cert-key.pem")
    return earlier if earlier.certificate.exists() else make_certificate(state)
