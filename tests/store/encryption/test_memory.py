"""Keys in memory: no core dump has them, and settings are read once."""

import os
import resource
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cbtfs.core.ids import PackId
from cbtfs.core.pin import Pin, PinId
from cbtfs.core.settings import CAPTURE, PINS
from cbtfs.store.backend.layout import open_points
from cbtfs.store.encryption import ring
from cbtfs.store.encryption.credentials import KEY_FILE_VARIABLE, Credentials, use
from cbtfs.store.encryption.keys import Keys
from cbtfs.store.identity import new_id
from cbtfs.store.pins import put_pin
from cbtfs.store.repository import reading, writing
from cbtfs.store.settings import add_feature, load_settings
from tests.encrypted import create_encrypted, encrypted_settings, write_key
from tests.make_points import BLOCK, add_point
from tests.mount.mount_process import serving
from tools.crash.child import Send, run_child

NOISE = os.urandom(BLOCK) + b"text " * (BLOCK // 5)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    create_encrypted(tmp_path / "repo", encrypted_settings(BLOCK))
    monkeypatch.setenv(KEY_FILE_VARIABLE, str(write_key(tmp_path / "key")))
    allow_dumps()
    yield tmp_path / "repo"
    ring.drop_all()


def chunk_keys(path: Path) -> set[bytes]:
    """Return the content keys of all packs."""
    keys = ring.keys_of(path)
    assert isinstance(keys, Keys)
    found = set()
    for pack in path.glob("packs/??/*"):
        head = pack.read_bytes()[:128]
        cipher = keys.pack(PackId(pack.name), int.from_bytes(head[12:16], "little"), head[32:112])
        assert cipher.chunk_key is not None
        found.add(cipher.chunk_key[32:])
    return found


def regions(process: int, flag: str) -> Iterator[tuple[int, int]]:
    """Yield the parts of a process's memory that have a flag of VmFlags (proc(5))."""
    bounds = (0, 0)
    for line in Path(f"/proc/{process}/smaps").read_text().splitlines():
        words = line.split()
        if words[0] == "VmFlags:" and flag in words[1:]:
            yield bounds
        elif "-" in words[0] and not words[0].endswith(":"):
            start, end = words[0].split("-")
            bounds = int(start, 16), int(end, 16)


def memory(process: int, flag: str) -> bytes:
    parts = []
    with open(f"/proc/{process}/mem", "rb", buffering=0) as file:
        for start, end in regions(process, flag):
            file.seek(start)
            try:
                parts.append(file.read(end - start))
            except OSError:
                continue  # A region of the kernel, such as [vvar].
    return b"".join(parts)


def has_no_dump(process: int) -> bool:
    limits = Path(f"/proc/{process}/limits").read_text().splitlines()
    limit = next(line for line in limits if line.startswith("Max core file size")).split()
    filtered = int(Path(f"/proc/{process}/coredump_filter").read_text(), 16)
    return limit[4] == "0" and filtered == 0x10


def allow_dumps() -> None:
    """Undo what keys of other tests have set in this process, and children inherit."""
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    Path("/proc/self/coredump_filter").write_text("0x33")


@pytest.mark.mounts
def test_no_process_of_a_mount_dumps_keys(path: Path, tmp_path: Path) -> None:
    """Keys of packs are in memory that is neither dumped (dd) nor swapped (lo)."""
    point = add_point(path, {"disk": NOISE[: 2 * BLOCK]})

    with serving(path, tmp_path / "mount", "--workers", "1") as server:
        assert server.disk(point).read_bytes() == NOISE[: 2 * BLOCK]
        (worker,) = server.workers()
        processes = server.process.pid, worker
        assert all(map(has_no_dump, processes))
        for flag in ("dd", "lo"):
            secret = memory(worker, flag)
            assert any(key in secret for key in chunk_keys(path))


def test_a_process_that_opens_a_slot_forbids_dumps(path: Path) -> None:
    """Also a key command, and a repository whose key comes from another process."""

    def work(send: Send) -> None:
        ring.drop_all()
        ring.open_master(path, ring.load_settings_file(path).id)
        send({"after": has_no_dump(os.getpid())})

    def hold(send: Send) -> None:
        ring.hold(ring.held()[0])
        send({"after": has_no_dump(os.getpid())})

    assert not has_no_dump(os.getpid())
    assert run_child(work).values("after") == [True]
    assert run_child(hold).values("after") == [True]


def test_settings_are_read_once(path: Path) -> None:
    """Each part of an open repository asks for its keys."""
    add_point(path, {"disk": NOISE[:BLOCK]})
    opened = list[str]()

    def work(send: Send) -> None:
        ring.drop_all()
        use(Credentials())
        sys.addaudithook(
            lambda event, args: opened.append(str(args[0])) if event == "open" else None
        )
        for begin in (reading, writing, reading):
            opened.clear()
            with begin(path):
                pass
            send({"count": sum(name.endswith("repository.json") for name in opened)})

    result = run_child(work)

    assert result.code == 0
    assert result.values("count") == [1, 0, 0]


def test_a_feature_that_another_process_added_is_kept(path: Path) -> None:
    """Settings are kept in memory; a pin changes them under the lock of points/ alone."""
    point = add_point(path, {"disk": NOISE[:BLOCK]}).point

    def work(_: Send) -> None:
        with closing(open_points(path)) as points, points.locked():
            add_feature(path, CAPTURE)

    with reading(path) as repository:
        assert CAPTURE not in repository.settings.required
        assert run_child(work).code == 0
        pin = Pin(PinId(new_id()), point, "name", "host", "/dir", "2026-01-01T00:00:00Z")
        put_pin(path, repository.points, pin)

    assert {CAPTURE, PINS} <= set(load_settings(path).required)
