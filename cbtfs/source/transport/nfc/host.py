"""From a ticket to a host that speaks NFC: greeting, TLS, identity, ticket, negotiation."""

import hashlib
import hmac
import logging
import secrets
import string
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from cbtfs.source.transport.nfc import classic
from cbtfs.source.transport.nfc.channel import Channel, Deadline
from cbtfs.source.transport.nfc.classic import Handshake, Negotiated, Switched
from cbtfs.source.transport.nfc.failures import Untrusted
from cbtfs.source.transport.nfc.lines import (
    AuthdRefused,
    Greeting,
    LineBuffer,
    parse_greeting,
    reply_text,
    thumbprint_of,
)
from cbtfs.source.transport.nfc.options import NfcOptions
from cbtfs.source.transport.nfc.ticket import Ticket
from cbtfs.source.transport.nfc.wire import NfcProtocolError

log = logging.getLogger(__name__)

_TAG: Final = string.ascii_letters + string.digits + "+/"
_SHA1_BYTES: Final = 20


@dataclass(frozen=True, slots=True)
class HostFacts:
    """The identity and version of a host; no secrets."""

    host: str
    port: int
    service: str
    capabilities: tuple[str, ...]
    """Words of the greeting, sorted."""
    pinned_by: tuple[str, ...]
    """How the certificate was identified: `certificate`, `sha256`, `sha1`."""
    tls_version: str | None
    """Of the connection that carries the data; None in clear mode."""
    version: int
    """Of the host's NFC library."""


@dataclass(frozen=True, slots=True)
class Introduced:
    """A host that accepted a ticket and negotiated NFC, before the switch to AIO."""

    channel: Channel
    handshake: Handshake
    facts: HostFacts
    deadline: Deadline

    def switch(self) -> None:
        """Switch the session to AIO."""
        for message in classic.switching():
            self.channel.send(message)
        while not self.handshake.is_switched:
            _fed(self.channel, self.handshake)

    def end(self) -> None:
        """End the session before the switch to AIO."""
        try:
            self.channel.send(classic.completion())
        finally:
            self.channel.close()


def introduce(ticket: Ticket, options: NfcOptions) -> Introduced:
    """Connect to the ticket's host, verify the host, present the ticket, negotiate.

    Raises:
        Untrusted: the host shows another certificate than the ticket or than before.
        ConnectionLost: the host cannot be reached, or does not answer.
        AuthdRefused: the host does not accept the ticket.
        NfcProtocolError: the host does not speak NFC.
    """
    channel = Channel(ticket.host, ticket.port, options.connect_seconds)
    with ExitStack() as undo:
        undo.callback(channel.close)
        deadline = Deadline(options.open_seconds, f"opening NFC on {channel.peer}")
        lines = _Lines(channel, options, deadline)
        greeting = parse_greeting(lines.read())
        certificate = lines.start_tls()
        pins = _verified(ticket, certificate, channel.peer)
        is_strong = greeting.has_sha256 or set(pins) != {"sha1"}
        if options.requires_sha256 and not is_strong:
            raise Untrusted(
                f"{channel.peer} does not offer the SHA-256 of its certificate, which "
                "--nfc-require-sha256 demands: use another transport, or trust the SHA-1 of the "
                "ticket"
            )
        tag = "".join(secrets.choice(_TAG) for _ in range(classic.TAG_BYTES))
        lines.write(f"SESSION {ticket.token.reveal()}")
        reply_text(lines.ask("BANNER "), "220", "BANNER")
        if greeting.has_sha256:
            said = thumbprint_of(reply_text(lines.ask(f"THUMBPRINT_SHA2 {tag}"), "200", "SHA2"))
            if not hmac.compare_digest(said, hashlib.sha256(certificate).digest()):
                raise Untrusted(f"{channel.peer} names another certificate than it shows")
            pins = (*pins, "sha256")
        _ask_proxy(lines, ticket, options, greeting)
        channel.drop_tls()
        if options.mode == "ssl" and lines.start_tls() != certificate:
            raise Untrusted(f"{channel.peer} shows two different certificates")
        handshake, version = _negotiated(channel, tag, lines)
        facts = HostFacts(
            ticket.host,
            ticket.port,
            ticket.service,
            tuple(sorted(greeting.capabilities)),
            tuple(sorted(set(pins))),
            channel.tls_version,
            version,
        )
        undo.pop_all()
    log.debug("NFC %d on %s, identified by %s", version, channel.peer, ", ".join(facts.pinned_by))
    return Introduced(channel, handshake, facts, deadline)


class _Lines:
    """The text dialogue; each wait is bounded by itself and by the deadline of the whole."""

    def __init__(self, channel: Channel, options: NfcOptions, whole: Deadline) -> None:
        self._channel = channel
        self._seconds = options.answer_seconds
        self._whole = whole
        self._buffer = LineBuffer()

    def bound(self, what: str) -> None:
        """Begin to wait for *what*."""
        seconds = min(self._seconds, self._whole.left())
        self._channel.until(Deadline(seconds, f"{self._channel.peer}: {what}"))

    def read(self, what: str = "greeting") -> str:
        self.bound(what)
        while True:
            line = self._buffer.feed(bytes(self._channel.receive()))
            if line is not None:
                break
        if not self._buffer.is_empty:
            raise NfcProtocolError(f"{self._channel.peer} sends lines that nobody asked for")
        return line

    def start_tls(self) -> bytes:
        self.bound("TLS handshake")
        return self._channel.start_tls()

    def write(self, line: str) -> None:
        self._channel.send(f"{line}\r\n".encode("ascii"))

    def ask(self, line: str) -> str:
        self.write(line)
        return self.read(f"reply to {line.partition(' ')[0]}")


def _verified(ticket: Ticket, certificate: bytes, peer: str) -> tuple[str, ...]:
    """Return how the ticket identifies *certificate*; Untrusted if it is another one."""
    pins = []
    if ticket.certificate is not None:
        if not hmac.compare_digest(ticket.certificate, certificate):
            raise Untrusted(f"{peer} shows another certificate than that of the ticket")
        pins.append("certificate")
    if ticket.digest is not None:
        is_sha1 = len(ticket.digest) == _SHA1_BYTES
        name = "sha1" if is_sha1 else "sha256"
        digest = hashlib.new(name, certificate, usedforsecurity=not is_sha1).digest()
        if not hmac.compare_digest(ticket.digest, digest):
            raise Untrusted(
                f"{peer} shows another certificate than the ticket names: another host or a proxy "
                "answers there"
            )
        pins.append(name)
    return tuple(pins)


def _ask_proxy(lines: _Lines, ticket: Ticket, options: NfcOptions, greeting: Greeting) -> None:
    """Connect to the disk service."""
    suffix = "ssl" if options.mode == "ssl" else ""
    try:
        reply_text(lines.ask(f"PROXY {ticket.service}{suffix}"), "200", "PROXY")
    except AuthdRefused as exc:
        if suffix and not greeting.has_nfcssl:
            raise NfcProtocolError(
                f"{exc}: the host does not offer NFC over TLS; --nfc-mode clear sends the data of "
                "disks unencrypted"
            ) from exc
        raise


def _negotiated(channel: Channel, tag: str, lines: _Lines) -> tuple[Handshake, int]:
    """Send the opening messages; return the handshake and the version of the host's library."""
    handshake = Handshake()
    for message in classic.opening(tag):
        channel.send(message)
    lines.bound("negotiation")
    while True:
        for event in _fed(channel, handshake):
            if isinstance(event, Negotiated):
                return handshake, event.version


def _fed(channel: Channel, handshake: Handshake) -> Iterable[Negotiated | Switched]:
    return handshake.feed(bytes(channel.receive()))
