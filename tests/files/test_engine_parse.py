"""The child process of the engine `parse`: its sandbox, and its failures."""

import contextlib
import os
import platform
import signal
import subprocess
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbtfs import process
from cbtfs.errors import ChunkMissing
from cbtfs.files.engine_parse import frames, sandbox
from cbtfs.files.engine_parse.engine import ParsedFileSystem
from cbtfs.files.engine_parse.processes import ForkedParsers, Parsers, StartedParsers
from cbtfs.files.folder import Folder
from cbtfs.files.protocol import EngineFailed, Entry, FileExtent, FileSystemDamaged, Kind
from tests.files.guest_trees import ImageSource


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ImageSource:
    folder = tmp_path_factory.mktemp("image")
    (folder / "content").mkdir()
    (folder / "content" / "file").write_text("content\n")
    image = folder / "image"
    subprocess.run(
        ["mke2fs", "-q", "-t", "ext4", "-d", folder / "content", image, "8M"], check=True
    )
    return ImageSource(image)


ESCAPES = {
    "open a file": "open('/etc/passwd')",
    "write a file": "open('/dev/shm/escaped', 'w')",
    "list a directory": "os.listdir('/')",
    "make a socket": "socket.socket()",
    "start a program": "os.execv('/bin/true', ['true'])",
    "fork": "os.fork()",
    "kill a process": "os.kill(os.getppid(), 0)",
    "trace a process": "libc.ptrace(0, 0, 0, 0) and fail()",
    "map executable memory": "mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC)",
    "make memory executable": "libc.mprotect(page, 4096, 7) and fail()",
    "change its limits": "resource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
    "start a thread": "threading.Thread(target=print).start()",
}
_PROGRAM = """
import ctypes, mmap, os, resource, socket, sys, threading
from cbtfs.files.engine_parse import sandbox
libc = ctypes.CDLL(None, use_errno=True)
area = mmap.mmap(-1, 4096)
page = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(area)))
def fail():
    raise OSError(ctypes.get_errno(), "refused")
sandbox.enter()
os.write(1, b"entered\\n")
for attempt in sys.argv[1:]:
    try:
        exec(attempt)
        os.write(1, b"escaped\\n")
    except (OSError, RuntimeError, ValueError):
        os.write(1, b"refused\\n")
"""


def test_the_sandbox_refuses_everything_but_computing() -> None:
    done = process.run(process.interpreter(_PROGRAM, *ESCAPES.values()), 60)

    results = done.stdout.split()
    assert results[0] == "entered"
    assert dict(zip(ESCAPES, results[1:], strict=True)) == dict.fromkeys(ESCAPES, "refused")


def test_memory_is_limited() -> None:
    program = """
from cbtfs.files.engine_parse import sandbox
sandbox.enter()
try:
    bytearray(sandbox.MEMORY_BYTES)
except MemoryError:
    print("limited")
"""
    assert process.run(process.interpreter(program), 60).stdout == "limited\n"


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_a_filter_fits_into_a_program_of_the_kernel(machine: str) -> None:
    assert len(sandbox.program(machine)) % 8 == 0
    assert len(sandbox.program(machine)) // 8 < 256
    assert sandbox.is_supported() or platform.machine() not in ("x86_64", "aarch64")


def child_of(file_system: ParsedFileSystem) -> int:
    """Return the process id of the parser."""
    process = file_system._process
    assert process is not None
    return process.pid


@pytest.fixture(params=[StartedParsers, ForkedParsers])
def parsers(request: pytest.FixtureRequest) -> Iterator[Parsers]:
    """Sources of processes: an interpreter for each volume, and a fork server."""
    made = request.param("ext")
    yield made
    if isinstance(made, ForkedParsers):
        made.close()


def test_a_parser_is_confined(source: ImageSource, parsers: Parsers) -> None:
    file_system = ParsedFileSystem(source, "ext", parsers=parsers)
    process = Path(f"/proc/{child_of(file_system)}")
    facts = dict(line.split(":\t") for line in (process / "status").read_text().splitlines())
    limits = (process / "limits").read_text()
    opened = {os.readlink(fd) for fd in (process / "fd").iterdir()}
    file_system.close()

    assert (facts["Seccomp"], facts["NoNewPrivs"]) == ("2", "1")
    assert f"{sandbox.MEMORY_BYTES}" in limits
    assert f"{sandbox.CPU_SECONDS}" in limits
    assert sum(name.startswith("socket:") for name in opened) == 1
    assert {name for name in opened if not name.startswith("socket:")} <= {os.devnull}


def test_a_fork_server_that_dies_is_replaced(source: ImageSource) -> None:
    parsers = ForkedParsers("ext")
    file_system = ParsedFileSystem(source, "ext", parsers=parsers)
    assert parsers._child is not None
    parsers._child.kill()
    parsers._child.wait()
    with pytest.raises(EngineFailed):
        file_system.stat("/file")

    assert file_system.stat("/file").size == 8
    file_system.close()
    parsers.close()


def test_a_fork_server_reaps_the_parsers_that_end(source: ImageSource) -> None:
    parsers = ForkedParsers("ext")
    for _ in range(3):
        ParsedFileSystem(source, "ext", parsers=parsers).close()
    assert parsers._child is not None
    server = Path(f"/proc/{parsers._child.pid}/task/{parsers._child.pid}/children")

    assert server.read_text() == ""
    parsers.close()


def test_a_parser_that_dies_fails_one_call_and_is_replaced(
    source: ImageSource, parsers: Parsers
) -> None:
    file_system = ParsedFileSystem(source, "ext", parsers=parsers)
    os.kill(child_of(file_system), signal.SIGKILL)

    with pytest.raises(EngineFailed, match="signal 9"):
        file_system.stat("/file")
    assert file_system.read("/file", 0, 100) == b"content\n"
    file_system.close()


def test_a_parser_that_hangs_is_killed_and_replaced(source: ImageSource, parsers: Parsers) -> None:
    file_system = ParsedFileSystem(source, "ext", parsers=parsers)
    hanging = child_of(file_system)
    os.kill(hanging, signal.SIGSTOP)
    file_system._seconds = 0.1

    with pytest.raises(EngineFailed, match=r"more than 0\.1 s"):
        file_system.stat("/file")
    with pytest.raises(ProcessLookupError):
        os.kill(hanging, 0)
    file_system._seconds = 60
    assert file_system.stat("/file").size == 8
    file_system.close()


def children() -> set[str]:
    """Return the process ids of the children of this process."""
    tasks = Path("/proc/self/task").glob("*/children")
    return {pid for task in tasks for pid in task.read_text().split()}


def test_no_child_is_left_if_the_file_system_is_refused(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(bytes(1 << 20))
    before = children()

    with pytest.raises(FileSystemDamaged, match="no ext superblock"):
        ParsedFileSystem(ImageSource(image), "ext")
    assert children() <= before


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A volume of which only the first bytes can be read."""

    source: ImageSource
    readable: int

    @property
    def size(self) -> int:
        return self.source.size

    def read(self, offset: int, length: int) -> bytes:
        if offset + length > self.readable:
            raise ChunkMissing("chunk 17 is missing")
        return self.source.read(offset, length)


def test_the_reason_is_that_of_the_volume_if_it_cannot_be_read(source: ImageSource) -> None:
    file_system = ParsedFileSystem(Unreadable(source, 1 << 16), "ext")

    with pytest.raises(ChunkMissing, match="chunk 17"):
        file_system.stat("/file")
    file_system.close()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=16) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=20,
)


@given(VALUES)
def test_a_value_of_the_parser_is_checked(value: Any) -> None:
    for convert in (
        frames.to_entry,
        frames.text,
        frames.to_attributes,
        lambda value: frames.to_extent(value, 1000),
    ):
        with contextlib.suppress(EngineFailed):
            convert(value)


def test_entries_and_extents_survive_the_channel() -> None:
    entry = Entry("n\udcff", Kind.BLOCK, 5, 0o4755, 2, 3, 4, 1 << 40, -1, 2, 3, None, (8, 1), "bad")
    extent = FileExtent(5, 10, 900)

    assert frames.to_entry(frames.decode(frames.encode(frames.from_entry(entry)))) == entry
    assert frames.to_extent(frames.from_extent(extent), 1000) == extent


@pytest.mark.parametrize("name", ["a/b", "..", ".", "a\0b", "x" * 2000, 7])
def test_a_name_that_no_directory_has_is_refused(name: object) -> None:
    fields = frames.from_entry(Entry("name", Kind.FILE, 1))
    fields[0] = name

    with pytest.raises(EngineFailed):
        frames.to_entry(fields)


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", 7, None])
def test_a_text_that_no_bytes_have_is_refused(text: object) -> None:
    fields = frames.from_entry(Entry("name", Kind.FILE, 1))
    fields[0] = text
    for convert, value in (
        (frames.text, text),
        (frames.to_target, text),
        (frames.to_entry, fields),
        (frames.to_attributes, {str(text): "00"} if isinstance(text, str) else [text]),
    ):
        with pytest.raises(EngineFailed):
            convert(value)


@pytest.mark.parametrize("device", [(1 << 12, 0), (0, 1 << 20), (-1, 0), (1,)])
def test_a_device_that_linux_does_not_have_is_refused(device: tuple[int, ...]) -> None:
    fields = frames.from_entry(Entry("name", Kind.BLOCK, 1, device=(4095, (1 << 20) - 1)))
    assert frames.to_entry(fields).device == (4095, (1 << 20) - 1)
    fields[12] = device

    with pytest.raises(EngineFailed):
        frames.to_entry(fields)


@pytest.mark.parametrize("text", ["", "a\0b"])
def test_a_text_that_no_system_call_takes_is_refused(text: str) -> None:
    with pytest.raises(EngineFailed):
        frames.to_target(text)
    with pytest.raises(EngineFailed):
        frames.to_attributes({text: "00"})


@pytest.mark.parametrize("fields", [[0, 10, 995], [0, 0, 5], [-1, 5, 5], [0, 1, 1 << 70], [0, 1]])
def test_an_extent_outside_of_the_volume_is_refused(fields: list[int]) -> None:
    with pytest.raises(EngineFailed):
        frames.to_extent(fields, 1000)


@pytest.mark.parametrize("payload", [b"", b"[", b"\xff", b"[" * 100_000])
def test_a_message_that_is_not_json_is_refused(payload: bytes) -> None:
    with pytest.raises(EngineFailed):
        frames.decode(payload)


def test_folders_survive_the_channel() -> None:
    folder = Folder("/a\udcff", layouts=array("Q"), touched=array("B"))
    folder.add(["name\udcff"], [(0o100644, 1 << 63, 2, 3, 1 << 62, -5)])
    failed = Folder("/b", failure=FileSystemDamaged("reason"))
    batches = frames.from_folders([folder, failed])
    sent = [item for batch in batches for item in frames.decode(frames.encode(batch))]
    received = [frames.to_folder(item, {"FileSystemDamaged": FileSystemDamaged}) for item in sent]

    assert received[0] == folder
    assert (received[1].path, received[1].names) == ("/b", [])
    assert str(received[1].failure) == "reason"


@pytest.mark.parametrize(
    "changes",
    [
        {0: "a"},
        {0: "/a/../b"},
        {0: "/a\0"},
        {0: "/" + "x" * (1 << 16)},
        {1: ["a/b"]},
        {1: ["a\0b"]},
        {1: [".."]},
        {1: [7]},
        {1: "a"},
        {1: ["a", "b"]},
        {2: [-1]},
        {3: [1 << 64]},
        {6: [1.5]},
        {7: ["1"]},
        {7: []},
        {8: [1, 2]},
        {10: ["SystemExit", "x"]},
        {10: "x"},
    ],
)
def test_a_folder_that_no_file_system_has_is_refused(changes: dict[int, Any]) -> None:
    folder = Folder("/")
    folder.add(["name"], [(0o100644, 1, 2, 3, 4, 5)])
    fields = next(frames.from_folders([folder]))[0]
    for index, value in changes.items():
        fields[index] = value

    with pytest.raises(EngineFailed, match="invalid answer"):
        frames.to_folder(fields, {"FileSystemDamaged": FileSystemDamaged})
