"""NFC replies are decoded whatever their order and boundaries, and anything else is refused."""

import itertools
import random
import struct
import zlib
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbtfs.core.extent import Extent
from cbtfs.source.transport.nfc import classic
from cbtfs.source.transport.nfc.allocation import allocated_extents
from cbtfs.source.transport.nfc.classic import Handshake, Negotiated, Switched
from cbtfs.source.transport.nfc.codec import (
    AioCodec,
    AllocatedChunks,
    DdbValue,
    Event,
    FileOpened,
    ReadDone,
    Refused,
)
from cbtfs.source.transport.nfc.lines import (
    LineBuffer,
    parse_greeting,
    reply_text,
    thumbprint_of,
)
from cbtfs.source.transport.nfc.wire import CHUNK, Compression, NfcProtocolError
from tests.source.transport import nfc_encoder as host

HANDLE = 0xFFFFFFFF80000001
GREETING = (
    "220 VMware Authentication Daemon Version 1.10: SSL Required, "
    "ServerDaemonProtocol:SOAP, MKSDisplayProtocol:VNC , VMXARGS supported, "
    "NFCSSL supported/t, SHA256 supported"
)


def in_pieces(data: bytes, seed: int) -> Iterable[bytes]:
    """Cut *data* at random places; many pieces have one byte."""
    choice, at = random.Random(seed), 0
    while at < len(data):
        size = choice.choice([1, 2, 15, 16, 60, 500, 5000])
        yield data[at : at + size]
        at += size


def fed(codec: AioCodec, data: bytes, seed: int) -> list[Event]:
    return [event for piece in in_pieces(data, seed) for event in codec.feed(piece)]


CONTENTS = st.builds(
    lambda sectors, seed: b"".join(
        bytes(512) if zero else random.Random(seed + at).randbytes(512)
        for at, zero in enumerate(sectors)
    ),
    st.lists(st.booleans(), min_size=1, max_size=12),
    st.integers(0, 1000),
)


@given(st.lists(CONTENTS, min_size=1, max_size=4), st.sampled_from(Compression), st.randoms())
def test_fragments_of_several_reads_in_any_order_give_the_content(
    contents: list[bytes], asked: Compression, choice: random.Random
) -> None:
    codec, fragments, buffers = AioCodec(), [], {}
    for number, content in enumerate(contents):
        buffer = bytearray(b"\xff" * len(content))
        operation, _ = codec.read(HANDLE, number << 20, memoryview(buffer), asked)
        buffers[operation] = buffer
        cuts = sorted({0, len(content), *(choice.randint(0, len(content)) for _ in range(3))})
        fragments += [
            host.fragment(operation, number << 20, content, start, end, asked).encode()
            for start, end in itertools.pairwise(cuts)
        ]
    choice.shuffle(fragments)

    events = fed(codec, b"".join(fragments), choice.randrange(1000))

    assert sorted(event.operation for event in events) == list(range(len(contents)))
    assert all(isinstance(event, ReadDone) for event in events)
    assert [bytes(buffer) for buffer in buffers.values()] == contents


def test_plain_data_is_received_in_the_buffer_of_its_read() -> None:
    codec, buffer = AioCodec(), bytearray(2048)
    number, _ = codec.read(HANDLE, 0, memoryview(buffer), Compression.SKIPZ)
    plain = host.Fragment(number, 0, 2048, 1024, 1024, 0, b"p" * 1024).encode()
    codec.feed(plain[: 16 + 44 + 24])

    assert codec.space().obj is buffer
    assert len(codec.space()) == 1000
    codec.space()[:600] = b"q" * 600
    assert codec.received(600) is None
    assert buffer[1024 : 1024 + 624] == b"p" * 24 + b"q" * 600

    packed = host.packed(b"z" * 512 + bytes(512), 3)
    codec.feed(plain[-400:])
    codec.feed(host.Fragment(number, 0, 2048, 0, 1024, 3, packed).encode()[: 16 + 44])
    assert codec.space().obj is not buffer
    assert codec.feed(packed) == [ReadDone(number)]
    assert buffer[:1024] == b"z" * 512 + bytes(512)


def test_a_read_request_has_the_observed_layout() -> None:
    codec = AioCodec()
    codec.open_session()
    _, data = codec.read(HANDLE, 3 << 20, memoryview(bytearray(4096)), Compression.SKIPZ)

    assert data[:16] == b"\x7a\xda\x00\xa1" + struct.pack("<III", 7, 44, 1)
    assert data[16:] == struct.pack("<QIIQQIII", HANDLE, 1, 3, 3 << 20, 4096, 4096, 4096, 0)


def test_an_open_request_has_the_observed_layout() -> None:
    _, data = AioCodec().open_file("[ds] a/ä.vmdk")

    path = "[ds] a/ä.vmdk".encode()
    assert data[:16] == b"\x7a\xda\x00\xa1" + struct.pack("<III", 4, 60, 0)
    assert data[16:76] == struct.pack("<IIIIII", len(path), 0, 0, 0, 2, 0x1E).ljust(60, b"\0")
    assert data[76:] == path


PLAIN = host.Fragment(0, 1 << 20, 1024, 512, 512, 0, b"x" * 512)
ZEROS = struct.pack("<II", 512, 0)


def bomb(length: int) -> bytes:
    return zlib.compress(bytes(length), 9)


@pytest.mark.parametrize(
    ("fragments", "words"),
    [
        ([PLAIN, PLAIN], "overlaps"),
        ([PLAIN, PLAIN.changed(start=0, length=513, data=b"x" * 513)], "overlaps"),
        ([PLAIN, PLAIN.changed(start=600, length=8, data=b"x" * 8)], "overlaps"),
        ([PLAIN.changed(start=513)], "not within"),
        ([PLAIN.changed(start=0xFFFFFFFF)], "not within"),
        ([PLAIN.changed(length=0, data=b"")], "not within"),
        ([PLAIN.changed(offset=0)], "belongs to a read"),
        ([PLAIN.changed(total=2048)], "belongs to a read"),
        ([PLAIN.changed(operation=1)], "not in flight"),
        ([PLAIN.changed(code=2)], "nobody asked"),
        ([PLAIN.changed(code=1, data=zlib.compress(b"x" * 512))], "nobody asked"),
        ([PLAIN.changed(data=b"x" * 511)], "comes with 511"),
        ([PLAIN.changed(data=b"x" * 513)], "comes with 513"),
        ([PLAIN.changed(packed=0xFFFFFFFF)], "comes with 4294967295"),
        ([PLAIN.changed(code=3, packed=0xFFFFFFFF)], "compressed bytes"),
        ([PLAIN.changed(code=3, data=b"")], "header"),
        ([PLAIN.changed(code=3, data=struct.pack("<II", 511, 0))], "header"),
        ([PLAIN.changed(code=3, data=struct.pack("<II", 512, 1))], "header"),
        ([PLAIN.changed(code=3, data=ZEROS + b"x")], "trailing"),
        ([PLAIN.changed(code=3, data=ZEROS + struct.pack("<II", 510, 3) + b"xxx")], "run"),
        ([PLAIN.changed(code=3, data=ZEROS + struct.pack("<II", 0, 0))], "run"),
        ([PLAIN.changed(code=3, data=ZEROS + struct.pack("<II", 0, 9) + b"x")], "run"),
        (
            [
                PLAIN.changed(
                    code=3,
                    data=ZEROS + (struct.pack("<II", 8, 1) + b"x") * 2,
                )
            ],
            "run",
        ),
    ],
)
def test_an_invalid_fragment_ends_the_session(fragments: list[host.Fragment], words: str) -> None:
    codec = AioCodec()
    codec.read(HANDLE, 1 << 20, memoryview(bytearray(1024)), Compression.SKIPZ)

    with pytest.raises(NfcProtocolError, match=words):
        codec.feed(b"".join(fragment.encode() for fragment in fragments))
    with pytest.raises(NfcProtocolError, match="ended"):
        codec.feed(PLAIN.encode())


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (bomb(513), "another length"),
        (bomb(511), "another length"),
        (bomb(200_000), "another length"),
        (bomb(512)[:-1], "another length"),
        (bomb(512) + b"x", "another length"),
        (b"nonsense", "cannot decompress"),
    ],
)
def test_a_zlib_fragment_has_exactly_its_length(data: bytes, words: str) -> None:
    codec = AioCodec()
    codec.read(HANDLE, 1 << 20, memoryview(bytearray(1024)), Compression.ZLIB)

    with pytest.raises(NfcProtocolError, match=words):
        codec.feed(PLAIN.changed(code=1, data=data).encode())


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x7a\xda\x00\xa2" + bytes(12), "where a record should start"),
        (host.record(2, 7, bytes(16)), "not in flight"),
        (host.record(99, 0, bytes(16)), "record type 99"),
        (host.record(9, 0, bytes(12)), "record type 9"),
        (host.record(2, 0, bytes(15)), "15 bytes"),
        (host.record(2, 0, bytes(20)), "20 bytes"),
        (host.record(2, 0, bytes(16)) * 2, "not in flight"),
        (host.error(7, 11, b"no"), "not in flight"),
        (host.record(1, 0, struct.pack("<QII", 1, 0, 0xFFFFFFFF)), "error text"),
        (host.classic(36, 0, 0, 0, 1), "where a record should start"),
    ],
)
def test_any_other_record_ends_the_session(data: bytes, words: str) -> None:
    codec = AioCodec()
    codec.open_session()

    with pytest.raises(NfcProtocolError, match=words):
        codec.feed(data)


@given(st.integers(1, 2000), st.data(), st.integers(0, 1000))
def test_a_bitmap_becomes_extents(count: int, data: st.DataObject, seed: int) -> None:
    bits = data.draw(st.lists(st.booleans(), min_size=count, max_size=count))
    bitmap = bytearray(b"\0" * (-(-count // 32) * 4))
    for at, bit in enumerate(bits):
        bitmap[at // 8] |= bit << at % 8
    codec = AioCodec()
    operation, _ = codec.query_allocated(HANDLE, 5, count)

    events = fed(codec, host.allocated(operation, count, bytes(bitmap)), seed)

    assert events == [AllocatedChunks(operation, bytes(bitmap))]
    found = [False] * count
    last = Extent(0, 1)
    for extent in allocated_extents(bytes(bitmap), 5, count):
        assert extent.start > last.end
        last = extent
        for chunk in range(extent.start // CHUNK - 5, extent.end // CHUNK - 5):
            found[chunk] = True
    assert found == bits


def test_padding_of_a_bitmap_is_ignored() -> None:
    assert list(allocated_extents(b"\xff" * 4, 0, 9)) == [Extent(0, 9 * CHUNK)]


def test_a_bitmap_of_another_count_is_refused() -> None:
    codec = AioCodec()
    operation, _ = codec.query_allocated(HANDLE, 0, 64)

    with pytest.raises(NfcProtocolError, match="answers for 63 chunks"):
        codec.feed(host.allocated(operation, 63, bytes(8)))


@pytest.mark.parametrize(("sent", "value"), [(b"60 00 C2\0", "60 00 C2"), (b"", None)])
def test_a_value_of_the_disks_database_is_text(sent: bytes, value: str | None) -> None:
    codec = AioCodec()
    operation, data = codec.get_ddb(HANDLE, "uuid")

    assert data.endswith(struct.pack("<QII", HANDLE, 4, 0) + b"uuid")
    assert fed(codec, host.ddb(operation, sent), 1) == [DdbValue(operation, value)]


@pytest.mark.parametrize("sent", [b"\xff\xfe", b"x" * 4097])
def test_an_invalid_value_of_the_disks_database_is_refused(sent: bytes) -> None:
    codec = AioCodec()
    operation, _ = codec.get_ddb(HANDLE, "uuid")

    with pytest.raises(NfcProtocolError):
        codec.feed(host.ddb(operation, sent))


def test_an_open_disk_has_a_handle_and_a_capacity() -> None:
    codec = AioCodec()
    operation, _ = codec.open_file("[ds] a/a.vmdk")

    events = fed(codec, host.opened(operation, 1 << 30, handle=HANDLE), 3)

    assert events == [FileOpened(operation, HANDLE, 1 << 30)]


@pytest.mark.parametrize(
    ("capacity", "sector"), [(0, 512), (513, 512), ((64 << 40) + 512, 512), (1 << 20, 4096)]
)
def test_an_impossible_capacity_is_refused(capacity: int, sector: int) -> None:
    codec = AioCodec()
    operation, _ = codec.open_file("[ds] a/a.vmdk")

    with pytest.raises(NfcProtocolError):
        codec.feed(host.opened(operation, capacity, sector=sector))


def test_an_error_refuses_its_operation_and_ends_the_session() -> None:
    codec = AioCodec()
    operation, _ = codec.open_file("[ds] a/a.vmdk")

    events = fed(codec, host.error(operation, 11, b"permission check failed\x1b["), 4)

    assert len(events) == 1
    assert isinstance(events[0], Refused)
    assert events[0].code == 11
    assert "permission check failed" in events[0].text
    assert "\x1b" not in events[0].text
    assert codec.is_ended


def test_a_status_refuses_a_read_without_data() -> None:
    codec = AioCodec()
    codec.read(HANDLE, 1 << 20, memoryview(bytearray(1024)), Compression.NONE)
    refusal = PLAIN.changed(status=5, data=b"", packed=512)

    (event,) = codec.feed(refusal.encode())

    assert isinstance(event, Refused)
    assert event.code == 5


# the negotiation

STATUS = host.classic(36, 0, 0, 0, 1)
VERSION = host.classic(51, 9)
SWITCHED = host.classic(52)


def negotiate(handshake: Handshake, data: bytes) -> list[Negotiated | Switched]:
    return [event for piece in in_pieces(data, 6) for event in handshake.feed(piece)]


@pytest.mark.parametrize("order", [STATUS + VERSION, VERSION + STATUS])
def test_the_status_may_come_before_or_after_the_version(order: bytes) -> None:
    handshake = Handshake()

    events = negotiate(handshake, order + SWITCHED)

    assert events == [Negotiated(9), Switched()]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (STATUS * 2, "message 36"),
        (host.classic(51, 2), "too old"),
        (SWITCHED, "message 52"),
        (host.classic(4), "older than ESXi 7.0"),
        (host.classic(99), "message 99"),
        (host.classic(20, 1, 77, 8, extra=b"no disk\0"), "error 77: 'no disk'"),
        (host.classic(20, 1, 77, 0xFFFFFFFF), "error text"),
        (STATUS + VERSION + SWITCHED + b"x", "nobody asked"),
        (STATUS + VERSION + SWITCHED + SWITCHED, "message 52"),
    ],
)
def test_any_other_negotiation_is_refused(data: bytes, words: str) -> None:
    handshake = Handshake()

    with pytest.raises(NfcProtocolError, match=words):
        negotiate(handshake, data)


def test_the_client_sends_messages_of_264_bytes() -> None:
    tag, parameters, version = classic.opening("0123456789abcdef")
    client, features, aio = classic.switching()

    assert tag == struct.pack("<I", 43) + b"0123456789abcdef" + bytes(244)
    assert parameters == host.classic(33)
    assert version == host.classic(51, 12, 1)
    assert client == host.classic(54, 5, 7, extra=b"cbtfsnbdmode")
    assert features == host.classic(55, 3)
    assert aio == host.classic(52)
    assert classic.completion() == host.classic(4)


# the lines of the daemon


def test_the_greeting_tells_the_capabilities() -> None:
    buffer = LineBuffer()
    lines = [buffer.feed(piece) for piece in in_pieces(f"{GREETING}\r\n".encode(), 7)]

    assert lines[-1] == GREETING
    assert buffer.is_empty
    greeting = parse_greeting(GREETING)
    assert greeting.has_sha256
    assert "NFCSSL supported" in greeting.capabilities
    assert not parse_greeting(GREETING.replace(", SHA256 supported", "")).has_sha256


@pytest.mark.parametrize("line", ["", "220", "220 no colon", "530 a: b", "SSH-2.0-OpenSSH_9.6"])
def test_another_greeting_is_refused(line: str) -> None:
    with pytest.raises(NfcProtocolError, match="greets"):
        parse_greeting(line)


@pytest.mark.parametrize("data", [b"x" * 1025, b"x" * 1025 + b"\r\n", b"220 a\n", b"\xff\r\n"])
def test_an_invalid_line_is_refused(data: bytes) -> None:
    with pytest.raises(NfcProtocolError):
        LineBuffer().feed(data)


def test_a_reply_needs_its_code() -> None:
    assert reply_text("200 Connect ha-nfc", "200", "PROXY") == "Connect ha-nfc"
    with pytest.raises(NfcProtocolError, match="'530 Login incorrect' to PROXY"):
        reply_text("530 Login incorrect", "200", "PROXY")


def test_the_daemon_tells_a_sha256() -> None:
    assert thumbprint_of(":".join(["AB"] * 32)) == b"\xab" * 32
    for text in ("", "PlainText", ":".join(["AB"] * 20), ":".join(["AB"] * 33)):
        with pytest.raises(NfcProtocolError):
            thumbprint_of(text)
