"""The request loop with a socket instead of the device: every request is answered."""

import errno
import gc
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cbtfs.core.blockmap import FANOUT
from cbtfs.core.frame import Kind
from cbtfs.native import Chunks, Leaf, PackFile, Requests, has_deleted_pack_files, open_pack_files
from cbtfs.store.catalog.records import Location, encode_location
from cbtfs.store.codec import Encoder
from cbtfs.store.digest import chunk_digest, prefixed_digest
from cbtfs.store.identity import new_pack_id
from cbtfs.store.packs import PackFolder

_IN = struct.Struct("<IIQQIIIHH")
_READ = struct.Struct("<QQIIQII")
_OUT = struct.Struct("<IiQ")
_LOOKUP, _FORGET, _READ_CODE, _INTERRUPT = 1, 2, 15, 36
INODE = 1 << 20
BLOCK = 64 << 10


def request(opcode: int, unique: int, body: bytes = b"", inode: int = INODE) -> bytes:
    return _IN.pack(_IN.size + len(body), opcode, unique, inode, 0, 0, 0, 0, 0) + body


def read_request(unique: int, offset: int, length: int) -> bytes:
    return request(_READ_CODE, unique, _READ.pack(0, offset, length, 0, 0, 0, 0))


def _socket_pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


class Kernel:
    """The kernel's end of the device and pyfuse3's end of the session."""

    def __init__(self) -> None:
        self.device, self.server_device = _socket_pair()
        self.session, self.server_session = _socket_pair()
        for end in (self.device, self.session):
            end.settimeout(20)
        self.result: bytes | memoryview | int = b""
        self.chunks = Chunks(1 << 20, prefixed_digest, False)
        self.requests = Requests(
            self.server_device.fileno(), self.server_session.fileno(), self.chunks
        )
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        self.requests.serve(lambda *_: False, lambda *_: self.result)

    def ask(self, message: bytes) -> tuple[int, int, bytes]:
        """Return the reply to *message*: the request's number, the errno and the bytes."""
        self.device.send(message)
        length, error, unique, data = self._reply()
        assert length == _OUT.size + len(data)
        return unique, -error, data

    def _reply(self) -> tuple[int, int, int, bytes]:
        reply = self.device.recv(1 << 20)
        return (*_OUT.unpack_from(reply), reply[_OUT.size :])

    def close(self) -> None:
        """End serve(), which returns after pyfuse3 has closed its end of the session."""
        self.session.close()
        self.device.send(request(_LOOKUP, 99))
        self._thread.join(20)
        assert not self._thread.is_alive()
        for end in (self.device, self.server_device, self.server_session):
            end.close()


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    kernel = Kernel()
    yield kernel
    kernel.close()


@pytest.mark.parametrize("result", [0, -5, 512, 1 << 31, b"longer than asked"], ids=repr)
def test_an_invalid_reply_becomes_eio(kernel: Kernel, result: bytes | int) -> None:
    kernel.result = result

    assert kernel.ask(read_request(7, 0, 4)) == (7, errno.EIO, b"")


@pytest.mark.parametrize(
    "result",
    [b"", memoryview(b""), b"four", memoryview(b"four")],
    ids=lambda data: f"{type(data).__name__} of {len(data)}",
)
def test_bytes_and_errnos_reach_the_kernel(kernel: Kernel, result: bytes | memoryview) -> None:
    kernel.result = result
    assert kernel.ask(read_request(7, 0, 4)) == (7, 0, bytes(result))
    kernel.result = errno.ENOENT
    assert kernel.ask(read_request(8, 0, 4)) == (8, errno.ENOENT, b"")


def test_a_reply_that_does_not_reach_the_kernel_becomes_eio(kernel: Kernel) -> None:
    kernel.server_device.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    kernel.result = bytes(1 << 20)

    assert kernel.ask(read_request(7, 0, 1 << 20)) == (7, errno.EIO, b"")


def test_a_request_that_cannot_be_forwarded_fails_and_later_ones_are_served(
    kernel: Kernel,
) -> None:
    kernel.server_session.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    large = bytes(100_000)

    assert kernel.ask(request(_LOOKUP, 7, large)) == (7, errno.EMSGSIZE, b"")
    kernel.device.send(request(_FORGET, 8, large))
    kernel.device.send(request(_INTERRUPT, 9, bytes(8)))
    kernel.device.send(request(_LOOKUP, 10, b"name\0"))
    assert kernel.session.recv(1 << 20) == request(_LOOKUP, 10, b"name\0")


def test_reads_end_at_the_end_of_the_largest_file(kernel: Kernel) -> None:
    size = (1 << 63) - 5
    kernel.requests.add_file(INODE, size, BLOCK)
    kernel.requests.put_leaf(INODE, size // BLOCK // FANOUT, None)

    assert kernel.ask(read_request(7, size - 3, 1 << 20)) == (7, 0, bytes(3))
    assert kernel.ask(read_request(8, size, 1 << 20)) == (8, 0, b"")
    assert kernel.ask(read_request(9, (1 << 64) - 1, 1 << 20)) == (9, 0, b"")


def packed_leaf(folder: PackFolder, content: bytes) -> tuple[Leaf, PackFile, Path]:
    """Return a leaf whose first chunk has *content*, its pack file and the path of the pack."""
    writer = folder.create(new_pack_id())
    frame = writer.append(Encoder().encode(Kind.CHUNK, 0, chunk_digest(content), content))
    writer.close()
    leaf = Leaf((encode_location(Location(1, frame)), *[None] * (FANOUT - 1)))
    file = folder.open(writer.id).file
    leaf.attach(1, file)
    folder.forget_open()
    return leaf, file, folder.path(writer.id)


def test_a_reused_inode_number_has_no_leaves_of_the_previous_file(
    kernel: Kernel, tmp_path: Path
) -> None:
    gc.collect()
    before = open_pack_files()
    leaf, file, _ = packed_leaf(PackFolder(tmp_path), b"old " * (BLOCK // 4))
    kernel.requests.add_file(INODE, BLOCK, BLOCK)
    kernel.requests.put_leaf(INODE, 0, leaf)
    kernel.requests.put_leaf(INODE + 1, 0, leaf)
    assert kernel.ask(read_request(7, 0, 4)) == (7, 0, b"old ")

    kernel.requests.drop_file(INODE)
    kernel.requests.add_file(INODE, BLOCK, BLOCK)
    kernel.result = errno.ENOENT

    assert kernel.ask(read_request(8, 0, 4)) == (8, errno.ENOENT, b"")
    del leaf, file
    assert open_pack_files() == before + 1  # the other file still has its leaf
    kernel.requests.drop_file(INODE + 1)
    assert open_pack_files() == before


def test_the_deletion_of_a_pack_that_only_a_leaf_holds_is_detected(tmp_path: Path) -> None:
    gc.collect()
    leaf, file, path = packed_leaf(PackFolder(tmp_path), b"text" * (BLOCK // 4))
    del file
    assert not has_deleted_pack_files()

    path.unlink()

    assert has_deleted_pack_files()
    del leaf
    assert not has_deleted_pack_files()
