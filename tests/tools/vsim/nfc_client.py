"""A small NFC client, written from docs/vsim.md for the tests of the simulator."""

import contextlib
import http.client
import re
import socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.tools.vsim.nfc_codes import NfcError, decoded
from tools.vsim import Simulator

TIMEOUT = 10.0
MAGIC = 0xA100DA7A
ENVELOPE = (
    '<?xml version="1.0"?><soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/">'
    "<soapenv:Body>{}</soapenv:Body></soapenv:Envelope>"
)


@dataclass(frozen=True)
class HostTicket:
    """A ticket as the client receives it."""

    fields: dict[str, str]

    @property
    def token(self) -> str:
        return self.fields["sessionId"]

    @property
    def service(self) -> str:
        return self.fields["service"]


def call(sim: Simulator, service: Any, body: str) -> str:
    """Send the body of a SOAP request with the client's cookie; return the answer."""
    connection = http.client.HTTPSConnection(
        sim.host, sim.port, context=sim.certificate.client_context(), timeout=TIMEOUT
    )
    headers = {"Cookie": service._stub.cookie, "SOAPAction": '"urn:vim25/8.0.1.0"'}
    try:
        connection.request("POST", "/sdk", ENVELOPE.format(body), headers)
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def nfc_service(sim: Simulator, service: Any) -> str:
    """Return the id of the NFC service."""
    content = call(
        sim,
        service,
        '<RetrieveInternalContent xmlns="urn:vim25"><_this type="ServiceInstance">ServiceInstance'
        "</_this></RetrieveInternalContent>",
    )
    found = re.search(r'<nfcService type="NfcService">([^<]+)</nfcService>', content)
    if not found:
        raise NfcError(content)
    return found[1]


def ask(
    sim: Simulator, service: Any, method: str, arguments: str, space: str = "urn:vim25"
) -> dict[str, str]:
    """Call a method of the NFC service; return the elements of its result."""
    this = nfc_service(sim, service)
    answer = call(
        sim,
        service,
        f'<{method} xmlns="{space}"><_this type="NfcService">{this}</_this>{arguments}</{method}>',
    )
    response = re.search(
        rf'<{method}Response xmlns="{space}">(.*)</{method}Response>', answer, re.S
    )
    if not response:
        raise NfcError(answer)
    return dict(re.findall(r"<(\w+)[^<>]*>([^<]*)</", response[1]))


def ticket(
    sim: Simulator, service: Any, *, key: int | None = None, writable: bool = False, vm: str = ""
) -> HostTicket:
    """Return a ticket for the first machine, or for one of its disks."""
    moid = vm or str(sim.do.vms()[0]["id"])
    arguments = f'<vm type="VirtualMachine">{moid}</vm>'
    method = "NfcGetVmFiles"
    if key is not None:
        method = "NfcRandomAccessOpenDisk" if writable else "NfcRandomAccessOpenReadonly"
        arguments += f"<diskDeviceKey>{key}</diskDeviceKey>"
        arguments += '<hostForAccess type="HostSystem">host-1</hostForAccess>'
    return HostTicket(ask(sim, service, method, arguments))


def unverified() -> ssl.SSLContext:
    """Return a context for a certificate that is compared by hand."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class Client:
    """One connection."""

    def __init__(self, sim: Simulator) -> None:
        self.stream: Any = socket.create_connection((sim.host, sim.nfc_port), TIMEOUT)
        self.stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.op_id = -1
        self.handle = self.sector = 0
        self.timeout: float | None = TIMEOUT
        self.greeting = ""
        self.certificates: list[bytes] = []
        self.digest = ""

    def take(self, length: int) -> bytes:
        data = bytearray()
        while len(data) < length:
            piece = self.stream.recv(length - len(data))
            if not piece:
                raise NfcError(f"end of the connection after {len(data)} of {length} bytes")
            data += piece
        return bytes(data)

    def line(self) -> str:
        text = b""
        while not text.endswith(b"\r\n"):
            text += self.take(1)
            if len(text) > 1024:
                raise NfcError("a line is too long")
        return text.decode().strip()

    def say(self, text: str) -> None:
        self.stream.sendall(f"{text}\r\n".encode())

    def start_tls(self) -> None:
        self.stream = unverified().wrap_socket(self.stream)
        self.certificates.append(self.stream.getpeercert(True))

    def login(self, token: str, service: str, mode: str = "ssl", tag: str = "PlainText") -> str:
        """Do the dialogue and change to NFC; return the answer of PROXY."""
        self.greeting = self.line()
        if not self.greeting.startswith("220 "):
            raise NfcError(self.greeting)
        self.start_tls()
        self.say(f"SESSION {token}")
        self.say("BANNER ")
        if not self.line().startswith("220"):
            raise NfcError("no banner")
        if "SHA256" in self.greeting:
            self.say(f"THUMBPRINT_SHA2 {tag}")
            self.digest = self.line()
        self.say(f"PROXY {service}{'ssl' if mode == 'ssl' else ''}")
        answer = self.line()
        if not answer.startswith("200"):
            raise NfcError(answer)
        self.stream = socket.socket(fileno=self.stream.detach())
        self.stream.settimeout(self.timeout)
        if mode == "ssl":
            self.start_tls()
        return answer

    def message(self, kind: int, body: bytes = b"", trailer: bytes = b"") -> None:
        self.stream.sendall(struct.pack("<I", kind) + body.ljust(260, b"\0") + trailer)

    def expect(self, kind: int) -> bytes:
        received = self.take(264)
        (got,) = struct.unpack_from("<I", received)
        if got == 20:
            (length,) = struct.unpack_from("<I", received, 12)
            raise NfcError(self.take(min(length, 4096)).decode().rstrip("\0"))
        if got != kind:
            raise NfcError(f"message {got} in place of {kind}")
        return received

    def shake(
        self, *, wait_early: bool = False, apart: bool = False, tag: str = "PlainText"
    ) -> int:
        """Do the handshake; return the server's version."""
        self.message(43, tag.encode())
        self.message(33)
        if wait_early:
            self.expect(36)
        self.message(51, struct.pack("<II", 11, 0))
        if not wait_early:
            self.expect(36)
        (version,) = struct.unpack_from("<I", self.expect(51), 4)
        sizes = struct.pack("<II", 4, 7)
        self.message(54, sizes, b"" if apart else b"vddknbdmode")
        if apart:
            self.stream.sendall(b"vddk")
            self.stream.sendall(b"nbdmode")
        self.message(55, struct.pack("<I", 3))
        self.message(52)
        self.expect(52)
        return int(version)

    def send(self, kind: int, payload: bytes, extra: bytes = b"") -> int:
        self.op_id += 1
        head = struct.pack("<IIII", MAGIC, kind, len(payload), self.op_id)
        self.stream.sendall(head + payload + extra)
        return self.op_id

    def receive(self) -> tuple[int, int, bytes]:
        """Return type, opId and payload of the next record; raises NfcError for ERROR."""
        magic, kind, size, op_id = struct.unpack("<IIII", self.take(16))
        if magic != MAGIC:
            raise NfcError(f"magic {magic:#x}")
        if size > 4096:
            raise NfcError(f"size {size}")
        payload = self.take(size)
        if kind == 1:
            code, _, length = struct.unpack("<QII", payload)
            raise NfcError(f"{code}: {self.take(length).decode()}")
        return kind, op_id, payload

    def request(self, kind: int, payload: bytes, extra: bytes = b"") -> bytes:
        sent = self.send(kind, payload, extra)
        got, op_id, reply = self.receive()
        if (got, op_id) != (kind, sent):
            raise NfcError(f"record {got} {op_id} in place of {kind} {sent}")
        if len(reply) != len(payload):
            raise NfcError(f"size {len(reply)}")
        return reply

    def begin(self, size: int = 0, count: int = 0) -> None:
        self.request(2, struct.pack("<IIII", 0, size, count, 0))
        self.request(9, bytes(12))
        self.request(22, struct.pack("<I", 1))

    def open(self, path: str, flags: int = 0x1E) -> int:
        """Open a disk; return its capacity."""
        name = path.encode()
        payload = struct.pack("<I12xII36x", len(name), 2, flags)
        reply = self.request(4, payload, name)
        status, self.handle, capacity, self.sector = struct.unpack_from("<QQ12xQI", reply)
        if status:
            raise NfcError(f"status {status}")
        return int(capacity)

    def send_read(self, offset: int, length: int, code: int = 0) -> int:
        size = (length, length, length, 0)
        return self.send(7, struct.pack("<QIIQQIII", self.handle, 1, code, offset, *size))

    def read(self, offset: int, length: int, code: int = 0) -> bytes:
        """Return the bytes of a range; raises NfcError if a rule is broken."""
        return self.gather({self.send_read(offset, length, code): (offset, length)}, code)[0]

    def gather(self, asked: dict[int, tuple[int, int]], code: int = 0) -> list[bytes]:
        """Return the bytes of the reads in flight."""
        buffers = {op_id: bytearray(length) for op_id, (_, length) in asked.items()}
        seen: dict[int, list[tuple[int, int]]] = {op_id: [] for op_id in asked}
        left = sum(length for _, length in asked.values())
        while left:
            kind, op_id, payload = self.receive()
            if kind != 7 or op_id not in asked or len(payload) != 44:
                raise NfcError("unexpected record")
            status, _, used, offset, total, at, length, size, _ = struct.unpack(
                "<QIIQIIIII", payload
            )
            if status:
                raise NfcError(f"status {status}")
            if (offset, total) != asked[op_id]:
                raise NfcError("another request")
            if not 0 < length <= total - at or size > length + 64 or used not in (0, code):
                raise NfcError("invalid fragment")
            if any(at < end and start < at + length for start, end in seen[op_id]):
                raise NfcError("overlap")
            seen[op_id].append((at, at + length))
            buffers[op_id][at : at + length] = decoded(used, self.take(size), length)
            left -= length
        return [bytes(buffers[op_id]) for op_id in asked]

    def bitmap(self, chunk: int, start: int, count: int) -> list[bool]:
        payload = struct.pack("<QQQQQQ", self.handle, 0, chunk, start, count, 0)
        reply = self.request(13, payload)
        if struct.unpack_from("<Q", reply, 32)[0] != count:
            raise NfcError("another count")
        bits = self.take(-(-count // 32) * 4)
        return [bool(bits[number >> 3] >> (number & 7) & 1) for number in range(count)]

    def value(self, key: str) -> str:
        reply = self.request(11, struct.pack("<QII", self.handle, len(key), 0), key.encode())
        return self.take(struct.unpack_from("<I", reply, 12)[0]).decode()

    def end(self, *, wide: bool = False) -> None:
        self.request(5, struct.pack("<Q", self.handle) + bytes(8 * wide))
        self.request(3, bytes(16 if wide else 4))
        if not wide:
            self.message(4)

    def close(self) -> None:
        """Close; return once the server has closed the disk and the connection."""
        bare = self.stream
        if isinstance(bare, ssl.SSLSocket):
            bare = socket.socket(fileno=bare.detach())
        bare.settimeout(TIMEOUT)
        with contextlib.suppress(OSError):
            bare.shutdown(socket.SHUT_WR)
            while bare.recv(1 << 20):
                pass
        bare.close()


@contextmanager
def session(
    sim: Simulator,
    service: Any,
    *,
    mode: str = "ssl",
    key: int | None = None,
    size: int = 0,
    path: str = "",
) -> Iterator[Client]:
    """Connect, open a disk of the only snapshot, and close at the end."""
    granted = ticket(sim, service, key=key)
    client = Client(sim)
    try:
        client.login(granted.token, granted.service, mode)
        client.shake()
        client.begin(size)
        client.open(path or base_path(sim))
        yield client
    finally:
        client.close()


def base_path(sim: Simulator) -> str:
    """Return the path of the first machine's base link, which its snapshot holds."""
    machine = sim.do.vms()[0]
    return re.sub(r"-\d{6}\.vmdk$", ".vmdk", str(machine["disks"][0]["datastore_path"]))
