"""Fuzz target of NFC: any bytes from a host, cut at any place, never fail in another way."""

from cbtfs.errors import AccessDenied, SourceUnavailable
from cbtfs.source.transport.nfc.allocation import allocated_extents
from cbtfs.source.transport.nfc.classic import Handshake
from cbtfs.source.transport.nfc.codec import AioCodec, AllocatedChunks
from cbtfs.source.transport.nfc.lines import LineBuffer, parse_greeting, thumbprint_of
from cbtfs.source.transport.nfc.ticket import fault_of, parse_ticket, result_of
from cbtfs.source.transport.nfc.wire import (
    ALLOCATED,
    CHUNK,
    CLASSIC_BYTES,
    HEADER,
    MAGIC,
    READ_REPLY,
    Compression,
)

_READ = 8192
_CHUNKS = 100
_HANDLE = 1


def read_nfc(data: bytes) -> None:
    """Feed *data* to each decoder, whole and in two pieces, with and without a valid header."""
    half = len(data) // 2
    for pieces in ((data,), (data[:half], data[half:])):
        _lines(pieces)
        _negotiation(pieces)
        for compression in Compression:
            _records(pieces, compression)
    for kind, size, operation in ((7, 44, 0), (13, 48, 1), (11, 16, 2), (4, 60, 3), (1, 16, 0)):
        head = HEADER.pack(MAGIC, kind, size, operation)
        for compression in Compression:
            _records((head, data), compression)


def _lines(pieces: tuple[bytes, ...]) -> None:
    buffer = LineBuffer()
    try:
        for piece in pieces:
            line = buffer.feed(piece)
            if line is not None:
                parse_greeting(line)
                thumbprint_of(line)
    except SourceUnavailable:
        pass


def _negotiation(pieces: tuple[bytes, ...]) -> None:
    handshake = Handshake()
    try:
        for piece in pieces:
            handshake.feed(piece)
    except SourceUnavailable:
        pass


def _records(pieces: tuple[bytes, ...], compression: Compression) -> None:
    codec, target = AioCodec(), bytearray(_READ)
    codec.read(_HANDLE, 0, memoryview(target), compression)
    codec.query_allocated(_HANDLE, 0, _CHUNKS)
    codec.get_ddb(_HANDLE, "uuid")
    codec.open_file("[a] b")
    try:
        for piece in pieces:
            for event in codec.feed(piece):
                if isinstance(event, AllocatedChunks):
                    assert len(event.bitmap) == -(-_CHUNKS // 32) * 4
                    list(allocated_extents(event.bitmap, 0, _CHUNKS))
    except SourceUnavailable:
        assert codec.is_ended
    assert len(target) == _READ


def nfc_seeds() -> list[bytes]:
    """Return valid replies to the requests that the target has in flight."""
    plain = READ_REPLY.pack(0, 1, Compression.NONE, 0, _READ, 0, _READ, _READ, 0) + bytes(_READ)
    skipped = READ_REPLY.pack(0, 1, Compression.SKIPZ, 0, _READ, 0, _READ, 8, 0)
    skipped += _READ.to_bytes(4, "little") + bytes(4)
    bitmap = ALLOCATED.pack(_HANDLE, 0, CHUNK, 0, _CHUNKS, 0) + bytes(16)
    version = (51).to_bytes(4, "little") + (11).to_bytes(4, "little")
    return [
        HEADER.pack(MAGIC, 7, 44, 0) + plain,
        HEADER.pack(MAGIC, 7, 44, 0) + skipped,
        skipped,
        HEADER.pack(MAGIC, 13, 48, 1) + bitmap,
        version.ljust(CLASSIC_BYTES, b"\0"),
        b"220 VMware Authentication Daemon Version 1.10: SSL Required, SHA256 supported\r\n",
    ]


def read_ticket(data: bytes) -> None:
    """Read *data* as the server's answer to a request for a ticket."""
    fault = fault_of(500, data)
    if fault is not None:
        error = fault.error("NfcGetVmFiles")
        assert isinstance(error, AccessDenied | SourceUnavailable)
        assert len(str(error).splitlines()) == 1
    try:
        ticket = parse_ticket(result_of(data, "NfcGetVmFiles"), "vc1")
    except SourceUnavailable:
        return
    assert ticket.digest is not None or ticket.certificate is not None
    assert 0 < ticket.port < 1 << 16


def ticket_seeds() -> list[bytes]:
    """Return an answer with a ticket, and a fault."""
    envelope = (
        '<e:Envelope xmlns:e="http://schemas.xmlsoap.org/soap/envelope/" '
        'xmlns:i="http://www.w3.org/2001/XMLSchema-instance"><e:Body>%s</e:Body></e:Envelope>'
    )
    ticket = (
        '<NfcGetVmFilesResponse xmlns="urn:vim25"><returnval><host>esx1</host><port>902</port>'
        f"<sslThumbprint>{':'.join(['AB'] * 20)}</sslThumbprint><service>vpxa-nfc</service>"
        "<serviceVersion>1.1</serviceVersion><sessionId>52f5-ab</sessionId></returnval>"
        "</NfcGetVmFilesResponse>"
    )
    fault = (
        "<e:Fault><faultcode>ServerFaultCode</faultcode><faultstring>Denied</faultstring><detail>"
        '<NoPermissionFault xmlns="urn:vim25" i:type="NoPermission">'
        "<privilegeId>VirtualMachine.Provisioning.GetVmFiles</privilegeId></NoPermissionFault>"
        "</detail></e:Fault>"
    )
    return [(envelope % body).encode() for body in (ticket, fault)]
