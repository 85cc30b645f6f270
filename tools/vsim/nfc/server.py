"""The listener for NFC connections, and the limits of each host."""

import contextlib
import logging
import socket
import socketserver
import ssl
import threading
from pathlib import Path
from typing import Final

from tools.vsim.api.nfc import NfcAddress, Ticket
from tools.vsim.api.site import SimulatedSite
from tools.vsim.data.serving import StoppableServer
from tools.vsim.model import world
from tools.vsim.nfc.authd import Dialogue, greeting
from tools.vsim.nfc.channel import Channel, Ended
from tools.vsim.nfc.faults import Faults
from tools.vsim.nfc.handshake import Handshake
from tools.vsim.nfc.session import AioSession
from tools.vsim.soap.certificate import Certificate, make_certificate

log = logging.getLogger(__name__)
VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


class HostLimits:
    """Sessions and buffers of one host. Thread-safe."""

    def __init__(self, site: SimulatedSite, host: world.Host) -> None:
        self._site = site
        self._host = host
        self._lock = threading.Lock()
        self._sessions = self._bytes = 0

    def enter(self) -> bool:
        with self._lock:
            if self._sessions >= self._site.world.knobs.nfc.max_sessions:
                return False
            self._sessions += 1
            return True

    def leave(self) -> None:
        with self._lock:
            self._sessions -= 1

    def reserve(self, amount: int) -> bool:
        with self._lock:
            if self._bytes + amount > self._site.world.knobs.nfc.budget:
                return False
            self._bytes += amount
            return True

    def release(self, amount: int) -> None:
        with self._lock:
            self._bytes -= amount

    def is_serving(self, ticket: Ticket) -> bool:
        if self._site.world.knobs.nfc.bound:
            with self._site.world.lock:
                if not any(session is ticket.session for session in self._site.sessions):
                    return False
        if self._site.world.knobs.nfc.vmotion == "ends":
            with self._site.world.lock:
                is_known = ticket.machine in self._site.world.folders
                if is_known and self._site.world.host_of(ticket.machine) is not self._host:
                    return False
        return self._host.connection == "connected" and not self._host.maintenance


class NfcServer(StoppableServer):
    """Serves NFC. It does not depend on the HTTPS server: a restart of vCenter leaves it alone."""

    def __init__(
        self,
        address: tuple[str, int],
        site: SimulatedSite,
        certificate: Certificate,
        state: Path,
        host: str = "",
    ) -> None:
        """*host* is the name of the only host that it serves; empty: all without an address."""
        self.site = site
        self.host = host
        self.certificate = certificate
        self._state = state
        self._streams: dict[int, socket.socket] = {}
        self._limits: dict[str, HostLimits] = {}
        self._guard = threading.Lock()
        self._other: Certificate | None = None
        super().__init__(address, _NfcHandler)
        site.nfc.addresses[host] = NfcAddress(
            address[0],
            int(self.server_address[1]),
            certificate.thumbprint_sha1,
            certificate.certificate.read_text(),
        )

    def other(self) -> Certificate:
        """Return a certificate that no ticket names."""
        with self._guard:
            if self._other is None:
                self._other = make_certificate(self._state, stem="nfc-other")
            return self._other

    def limits(self, ticket: Ticket) -> HostLimits:
        """Return the limits of the host that serves the ticket's machine; raises Ended."""
        with self.site.world.lock:
            if ticket.machine not in self.site.world.folders:
                raise Ended("the machine does not exist")
            host = self.site.world.host_of(ticket.machine)
        with self._guard:
            return self._limits.setdefault(host.name, HostLimits(self.site, host))

    def keep(self, number: int, stream: socket.socket | None) -> None:
        """Remember the socket of a connection, or forget it."""
        with self._guard:
            if stream is None:
                self._streams.pop(number, None)
            else:
                self._streams[number] = stream

    def drop_connections(self) -> None:
        """Close every connection."""
        with self._guard:
            streams = list(self._streams.values())
        for stream in streams:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(stream, socket.SHUT_RDWR)

    def stop(self) -> None:
        """Close the port and every connection."""
        super().stop()
        self.drop_connections()

    def context(self, phase: str) -> ssl.SSLContext:
        """Return the TLS settings of the first or second handshake."""
        knobs = self.site.world.knobs.nfc
        shown = self.other() if knobs.certificate == phase else self.certificate
        context = shown.server_context()
        context.maximum_version = VERSIONS[knobs.tls]
        return context


class _NfcHandler(socketserver.BaseRequestHandler):
    server: NfcServer

    def handle(self) -> None:
        stream: socket.socket = self.request
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        number = id(self)
        stream = socket.socket(fileno=stream.detach())
        self.server.keep(number, stream)
        channel = Channel(stream, lambda replacement: self.server.keep(number, replacement))
        try:
            self._serve(channel)
        except (Ended, OSError, ValueError) as error:
            log.info("NFC connection ended: %r", error)
        finally:
            self.server.keep(number, None)
            channel.close()

    def _serve(self, channel: Channel) -> None:
        server, site = self.server, self.server.site
        world, nfc = site.world, site.nfc
        nfc.count("connections")
        faults = Faults(world, channel)
        faults.line("greeting", greeting(world.knobs.nfc))
        channel.start_tls(server.context("first"))
        dialogue = Dialogue(channel, faults, nfc, world.knobs.nfc, server.host)
        shown = server.other() if world.knobs.nfc.certificate == "digest" else server.certificate
        dialogue.run("vpxa-nfc" if world.is_vcenter else "nfc", shown.thumbprint)
        channel.leave_tls()
        if dialogue.is_ssl:
            rule = faults.find("tls")
            if rule is not None:
                faults.send(rule, b"\0" * 16)
            channel.start_tls(server.context("second"))
        handshake = Handshake(channel, faults, world.knobs.nfc)
        handshake.run()
        if dialogue.tag and dialogue.tag != handshake.tag:
            nfc.count("tag_differences")
        ticket = dialogue.ticket
        assert ticket is not None
        AioSession(world, channel, faults, ticket, server.limits(ticket)).run(nfc)
