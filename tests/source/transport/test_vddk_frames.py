"""Frames from the child are validated, because a bug in its library can corrupt its memory."""

import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbtfs.core.extent import Extent
from cbtfs.errors import SourceUnavailable
from cbtfs.source.transport.vddk import frame, process
from cbtfs.source.transport.vddk.process import ChildGone, ChildProcess
from cbtfs.source.transport.vddk.reader import InvalidBlocks, checked_blocks
from cbtfs.source.transport.vddk.redact import redacted

HEADER = struct.Struct("<4sBxxxIQ")


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


Pair = tuple[socket.socket, socket.socket]


def test_a_frame_arrives_as_it_was_sent(pair: Pair) -> None:
    frame.send_frame(pair[0], frame.DATA, 7, b"some ", memoryview(b"bytes"))
    frame.send_words(pair[0], frame.ANSWER, 8, {"a": 1})
    pair[0].close()

    data, answer = frame.receive_frame(pair[1]), frame.receive_frame(pair[1])
    assert data is not None
    assert answer is not None
    assert (data.kind, data.tag, bytes(data.payload)) == (frame.DATA, 7, b"some bytes")
    assert answer.words() == {"a": 1}
    assert frame.receive_frame(pair[1]) is None


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense that is as long as a header",
        HEADER.pack(b"VDK2", frame.DATA, 1, 0),
        HEADER.pack(b"VDK1", 9, 1, 0),
        HEADER.pack(b"VDK1", frame.DATA, 1, frame.MAX_DATA + 1),
        HEADER.pack(b"VDK1", frame.ERROR, 1, frame.MAX_WORDS + 1),
        HEADER.pack(b"VDK1", frame.DATA, 1, 1 << 63),
        HEADER.pack(b"VDK1", frame.DATA, 1, 10) + b"too few",
        HEADER.pack(b"VDK1", frame.DATA, 1, 10)[:7],
    ],
)
def test_an_invalid_frame_is_refused(pair: Pair, sent: bytes) -> None:
    pair[0].sendall(sent)
    pair[0].close()
    with pytest.raises(frame.FrameError):
        frame.receive_frame(pair[1])


@pytest.mark.parametrize("payload", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b"1"])
def test_words_must_be_a_json_object(payload: bytes) -> None:
    with pytest.raises(frame.FrameError):
        frame.VddkFrame(frame.ANSWER, 1, memoryview(payload)).words()


@given(data=st.binary(max_size=200))
def test_any_bytes_are_a_frame_or_refused(data: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(data)
        ours.close()
        try:
            while (received := frame.receive_frame(theirs)) is not None:
                assert len(received.payload) <= frame.MAX_DATA
        except frame.FrameError:
            pass


SENDS = (
    "import socket, struct, sys, time; s = socket.socket(fileno=int(sys.argv[1])); "
    "h = struct.Struct('<4sBxxxIQ'); s.recv(1000); "
)
"""Start of a child that receives one request."""


@pytest.mark.parametrize(
    ("sends", "words"),
    [
        ("s.sendall(b'nonsense' * 9); s.recv(1)", "sends an invalid frame header"),
        ("s.sendall(h.pack(b'VDK1', 3, 99, 2) + b'{}'); s.recv(1)", "an answer without a request"),
        ("s.sendall(h.pack(b'VDK1', 4, 1, 512) + bytes(512)); s.recv(1)", "wrong kind or length"),
        ("s.sendall(h.pack(b'VDK1', 3, 1, 1) + b'['); s.recv(1)", "not JSON"),
        ("s.sendall(h.pack(b'VDK1', 5, 1, 2) + b'{}'); s.recv(1)", "an error without call"),
        ("s.sendall(h.pack(b'VDK1', 3, 1, 9) + b'{')", "a truncated frame"),
        ("sys.exit(5)", "exited with code 5"),
        ("print('the last line', file=sys.stderr); sys.exit(6)", "with code 6: the last line"),
        ("import os; os.kill(os.getpid(), 11)", "crashed .SIGSEGV"),
        ("time.sleep(60)", "hangs: no answer to load"),
    ],
)
def test_a_child_with_invalid_answers_is_killed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sends: str, words: str
) -> None:
    monkeypatch.setattr(process, "_PROGRAM", SENDS + sends)
    child = ChildProcess(tmp_path, 0.3 if "sleep" in sends else 60.0)
    with pytest.raises(SourceUnavailable, match=words):
        child.words("load", libdir="x")
    with pytest.raises(ChildGone):
        child.read(0, 1)
    child.end()
    assert not Path(f"/proc/{child.pid}").exists()


def test_a_program_that_cannot_be_started_is_an_error_of_the_source(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.executable", str(tmp_path / "none"))
    with pytest.raises(SourceUnavailable, match="cannot start a process"):
        ChildProcess(tmp_path, 1.0)


def blocks(*pairs: tuple[int, int]) -> memoryview:
    return memoryview(b"".join(frame.RANGE.pack(*pair) for pair in pairs))


def test_blocks_become_extents() -> None:
    extents = list(checked_blocks(blocks((128, 128), (256, 1), (512, 512)), 128, 1024))

    assert extents == [Extent(65536, 65536), Extent(131072, 512), Extent(262144, 262144)]


@pytest.mark.parametrize(
    "payload",
    [
        blocks((0, 128)),
        blocks((128, 1025)),
        blocks((1152, 1)),
        blocks((256, 128), (128, 128)),
        blocks((128, 128), (200, 128)),
        blocks((128, 0)),
        blocks((128, (1 << 64) - 1)),
        memoryview(b"half a pair"),
    ],
)
def test_invalid_blocks_are_refused(payload: memoryview) -> None:
    with pytest.raises(InvalidBlocks):
        list(checked_blocks(payload, 128, 1024))


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("login with Geheim! failed", "login with … failed"),
        ('Cookie: vmware_soap_session="52ab"; Path=/', "Cookie: …; Path=/"),
        ("password=hunter2, user=x", "password=…, user=x"),
        ("ticket: 52 ab", "ticket: … ab"),
        (":".join(["AB"] * 20), "…"),
        ("two\nlines\x1b[2J", "two lines?[2J"),
        ("nothing to hide", "nothing to hide"),
    ],
)
def test_log_lines_of_the_library_have_no_secrets(line: str, shown: str) -> None:
    assert redacted(line, ["Geheim!", ""]) == shown
