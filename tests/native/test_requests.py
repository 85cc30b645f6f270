"""The request loop with a socket instead of the device: every request is answered."""

import errno
import gc
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cbtfs.core.blockmap import FANOUT
from cbtfs.core.frame import Kind
from cbtfs.native import Leaf, PackFile, has_deleted_pack_files, open_pack_files
from cbtfs.store.catalog.records import Location, encode_location
from cbtfs.store.codec import Encoder
from cbtfs.store.digest import chunk_digest
from cbtfs.store.identity import new_pack_id
from cbtfs.store.packs import PackFolder
from tests.native.kernel import FORGET, INODE, INTERRUPT, LOOKUP, Kernel, read_request, request
from tests.store.folders import packs_at

BLOCK = 64 << 10


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


def test_a_thread_that_polls_after_a_burst_of_requests_sleeps_soon(kernel: Kernel) -> None:
    kernel.result = b"four"
    for number in range(1, 200):
        assert kernel.ask(read_request(number, 0, 4)) == (number, 0, b"four")

    before = kernel.serving_seconds
    threading.Event().wait(0.5)

    assert kernel.serving_seconds - before < 0.05
    assert kernel.ask(read_request(7, 0, 4)) == (7, 0, b"four")


def test_requests_are_answered_on_a_single_processor() -> None:
    """Nothing polls there: it would delay the program that waits for the reply."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        kernel = Kernel()
        kernel.result = b"four"
        replies = [kernel.ask(read_request(number, 0, 4)) for number in range(1, 50)]
        kernel.close()
    finally:
        os.sched_setaffinity(0, allowed)

    assert replies == [(number, 0, b"four") for number in range(1, 50)]


def test_a_reply_that_does_not_reach_the_kernel_becomes_eio(kernel: Kernel) -> None:
    kernel.server_device.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    kernel.result = bytes(1 << 20)

    assert kernel.ask(read_request(7, 0, 1 << 20)) == (7, errno.EIO, b"")


def test_a_request_that_cannot_be_forwarded_fails_and_later_ones_are_served(
    kernel: Kernel,
) -> None:
    kernel.server_session.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    large = bytes(100_000)

    assert kernel.ask(request(LOOKUP, 7, large)) == (7, errno.EMSGSIZE, b"")
    kernel.device.send(request(FORGET, 8, large))
    kernel.device.send(request(INTERRUPT, 9, bytes(8)))
    kernel.device.send(request(LOOKUP, 10, b"name\0"))
    assert kernel.session.recv(1 << 20) == request(LOOKUP, 10, b"name\0")


def test_reads_end_at_the_end_of_the_largest_file(kernel: Kernel) -> None:
    size = (1 << 63) - 5
    kernel.requests.add_disk(INODE, size, BLOCK)
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
    leaf, file, _ = packed_leaf(packs_at(tmp_path), b"old " * (BLOCK // 4))
    kernel.requests.add_disk(INODE, BLOCK, BLOCK)
    kernel.requests.put_leaf(INODE, 0, leaf)
    kernel.requests.put_leaf(INODE + 1, 0, leaf)
    assert kernel.ask(read_request(7, 0, 4)) == (7, 0, b"old ")

    kernel.requests.drop_file(INODE)
    kernel.requests.add_disk(INODE, BLOCK, BLOCK)
    kernel.result = errno.ENOENT

    assert kernel.ask(read_request(8, 0, 4)) == (8, errno.ENOENT, b"")
    del leaf, file
    assert open_pack_files() == before + 1  # the other file still has its leaf
    kernel.requests.drop_file(INODE + 1)
    assert open_pack_files() == before


def test_the_deletion_of_a_pack_that_only_a_leaf_holds_is_detected(tmp_path: Path) -> None:
    gc.collect()
    leaf, file, path = packed_leaf(packs_at(tmp_path), b"text" * (BLOCK // 4))
    del file
    assert not has_deleted_pack_files()

    path.unlink()

    assert has_deleted_pack_files()
    del leaf
    assert not has_deleted_pack_files()
