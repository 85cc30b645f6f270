"""One prune frees space on a full disk, in steps that fit, even with active readers."""

import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbtfs.core.ids import PackId
from cbtfs.prune import rewrite, space
from cbtfs.prune.prune import prune
from cbtfs.prune.select import PackUse
from cbtfs.prune.space import Space, step_bytes, take_step
from cbtfs.store.repository import writing
from cbtfs.store.reserve import RESERVE
from tests.make_points import BLOCK, MEMORY
from tests.mount.mount_process import serving, wait_until
from tests.scenarios.repository_history import EVERYTHING, History, block, image
from tools.crash.child import ChildExit, Send, run_child
from tools.crash.disks import fill_disk
from tools.crash.loop import FileSystem, LoopDisk, loop_disk
from tools.crash.trap import Action, Trap

pytestmark = pytest.mark.mounts

BLOCKS: Final = 1500
"""Blocks of the disk: 6 MiB, in packs of 1 MiB."""
DEAD: Final = 0.6
PACK_SIZE: Final = 1 << 20
SMALL_PACK: Final = 64 << 10
LOW: Final = property(lambda _: 800_000)
"""Free space for one pack of the small history, but not for the catalog."""


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """Return a directory for disk images to fill."""
    folder = Path(tempfile.mkdtemp(prefix="cbtfs-", dir=MEMORY))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def disk(memory: Path) -> Iterator[LoopDisk]:
    with loop_disk(memory, "ext4", 40 << 20) as disk:
        yield disk


def history_at(path: Path, pack_size: int = PACK_SIZE) -> History:
    """Add two points. Without the first, the share DEAD of each of its packs is unreferenced."""
    history = History(path, pack_size)
    rnd = random.Random(12)
    first = bytearray(random.Random(1).randbytes(BLOCKS * BLOCK))
    history.add(bytes(first))
    changed = sorted(rnd.sample(range(BLOCKS), int(BLOCKS * DEAD)))
    for number in changed:
        first[number * BLOCK : (number + 1) * BLOCK] = rnd.randbytes(BLOCK)
    history.add(bytes(first), changed=changed)
    return history


def command(history: History, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run a command of cbtfs in a separate process."""
    return subprocess.run(
        [sys.executable, "-m", "cbtfs", f"--repo={history.path}", *arguments],
        check=False,
        capture_output=True,
        text=True,
    )


def forget_all_but_the_newest(history: History) -> "subprocess.CompletedProcess[str]":
    """The commands that docs/operations.md advises on a full disk."""
    newest = list(history.expected)[-1]
    for point in [*history.expected]:
        if point != newest:
            del history.expected[point]
    return command(history, "forget", "--keep-last", "1", "--prune", "--json")


@pytest.mark.parametrize(
    ("kind", "mebibytes", "left"),
    [("ext4", 40, 0), ("ext4", 40, 50_000), ("ext4", 40, 1_000_000), ("xfs", 304, 0)],
)
def test_a_full_disk_with_sixty_percent_dead_is_freed_by_one_command(
    kind: FileSystem, mebibytes: int, left: int, memory: Path
) -> None:
    with loop_disk(memory, kind, mebibytes << 20) as disk:
        with (disk.mountpoint / "ballast").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(mebibytes - 160, 1) << 20)
        history = history_at(disk.mountpoint / "repository", 64 << 20)
        dead = int(BLOCKS * DEAD) * BLOCK
        fill_disk(disk.mountpoint / "filler", left)

        done = forget_all_but_the_newest(history)

        assert done.returncode == 0, done.stderr
        outcome = json.loads(done.stdout)["prune"]
        assert outcome["freed_bytes"] > dead
        assert outcome["postponed_packs"] == 0
        history.verify()


def test_packs_of_which_little_lives_are_rewritten_in_steps_that_fit(disk: LoopDisk) -> None:
    """The live part of all packs is 2.4 MiB, which only fits in steps."""
    history = history_at(disk.mountpoint / "repository")
    (history.path / RESERVE).unlink()
    fill_disk(disk.mountpoint / "filler", 1_900_000)

    done = forget_all_but_the_newest(history)

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["prune"]["freed_bytes"] > int(BLOCKS * DEAD) * BLOCK
    history.verify()


def test_dead_packs_are_removed_before_anything_is_written(disk: LoopDisk) -> None:
    """There is no reserve and no free space, neither for a pack nor for the catalog."""
    history = history_at(disk.mountpoint / "repository")
    gone = history.add(random.Random(9).randbytes(BLOCKS * BLOCK))
    history.forget(gone)
    (history.path / RESERVE).unlink()
    fill_disk(disk.mountpoint / "filler", 0)

    done = command(history, "prune", "--json")

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["freed_bytes"] > BLOCKS * BLOCK
    history.verify()
    assert command(history, "check", "--read-data").returncode == 0


def test_postponed_packs_are_reported_with_the_space_they_need(disk: LoopDisk) -> None:
    history = history_at(disk.mountpoint / "repository", 64 << 20)
    (history.path / RESERVE).unlink()
    filler = disk.mountpoint / "filler"
    fill_disk(filler, 1_500_000)

    foreseen = json.loads(
        command(history, "forget", "--keep-last", "1", "--prune", "--dry-run", "--json").stdout
    )["prune"]
    done = forget_all_but_the_newest(history)

    assert done.returncode == 1
    assert "not enough free space; make " in done.stderr
    outcome = json.loads(done.stdout)["prune"]
    for document in (foreseen, outcome):
        assert (document["postponed_packs"], document["freed_bytes"]) == (1, 0)
        assert document["postponed_bytes"] > int(BLOCKS * DEAD) * BLOCK * 0.9
    history.verify()

    os.truncate(filler, filler.stat().st_size - outcome["needed_bytes"])
    assert command(history, "prune").returncode == 0
    assert history.pack_bytes() < 2 * int(BLOCKS * DEAD) * BLOCK
    history.verify()


def test_space_that_a_mount_held_is_used_by_the_same_prune(disk: LoopDisk, tmp_path: Path) -> None:
    """Each step needs the space of the previous step, and workers have all packs open."""
    history = history_at(disk.mountpoint / "repository")
    kept = list(history.expected)[-1]
    with serving(history.path, tmp_path / "mnt") as server:
        path = server.disk(history.manifests[kept])
        with path.open("rb") as file:
            assert file.read() == history.expected[kept]["disk"]
            (history.path / RESERVE).unlink()
            fill_disk(disk.mountpoint / "filler", 1_900_000)

            done = forget_all_but_the_newest(history)

            assert done.returncode == 0, done.stderr
            freed = json.loads(done.stdout)["prune"]["freed_bytes"]
            assert freed > int(BLOCKS * DEAD) * BLOCK
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            file.seek(0)
            assert file.read() == history.expected[kept]["disk"]
            assert wait_until(lambda: not removed_files(server.workers(), history.path))
    history.verify()


def removed_files(processes: set[int], folder: Path) -> list[str]:
    """Return deleted files below *folder* that one of *processes* still has open."""
    links = []
    for process in processes:
        for descriptor in Path(f"/proc/{process}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # Closed by now.
                links.append(os.readlink(descriptor))
    return [link for link in links if link.startswith(str(folder)) and "(deleted)" in link]


# Steps


def use(number: int, used: int, size: int = 100_000) -> PackUse:
    return PackUse(number, PackId(f"{number:032x}"), size, 1, used)


@given(
    used=st.lists(st.integers(1, 99_000), max_size=12),
    free=st.integers(0, 900_000),
    catalog=st.integers(0, 1 << 20),
    pack_bytes=st.integers(1, 200_000),
)
def test_steps_fit_lose_no_pack_and_end_only_if_no_pack_fits(
    used: list[int], free: int, catalog: int, pack_bytes: int
) -> None:
    every = [use(number, bytes_used) for number, bytes_used in enumerate(used)]
    left, done = deque(every), list[PackUse]()

    while step := take_step(left, free, catalog, pack_bytes):
        assert step_bytes(step, catalog) <= free
        assert sum(pack.used_bytes for pack in step[:-1]) < pack_bytes
        done += step
        free += sum(pack.unused_bytes for pack in step)

    assert sorted(pack.number for pack in [*done, *left]) == list(range(len(every)))
    assert [*left] == sorted(left, key=every.index)
    assert all(step_bytes([pack], catalog) > free for pack in left)


def test_packs_are_rewritten_in_the_given_order_where_all_fit() -> None:
    every = [use(number, 40_000) for number in range(4)]
    left = deque(every)

    assert take_step(left, 1 << 30, 0, 60_000) == tuple(every[:2])
    assert [*left] == every[2:]


def test_space_that_the_file_system_refuses_is_not_counted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file system does not report a quota."""
    monkeypatch.setattr(
        os, "statvfs", lambda _: os.statvfs_result([4096, 4096, *[2000] * 3] + [0] * 6)
    )
    space = Space(tmp_path)
    free = space.free

    space.refused(free, 1_000_000)

    assert space.free == 500_000


# Interrupted anywhere


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[History]:
    """Return a template history with packs to remove and packs to rewrite."""
    folder = Path(tempfile.mkdtemp(prefix="cbtfs-", dir=MEMORY))
    history = History(folder / "stock", SMALL_PACK)
    content = bytearray(image(*range(1, 41)))
    base = history.add(bytes(content))
    changed = [number for number in range(40) if number % 5 < 3]
    for number in changed:
        content[number * BLOCK : (number + 1) * BLOCK] = block(500 + number)
    history.add(bytes(content), changed=changed)
    history.forget(base, history.add(image(*range(900, 920))))
    yield history
    shutil.rmtree(folder)


def prune_where_space_is_low(history: History, trap: Trap | None = None) -> ChildExit:
    """Start a prune in a child that needs many steps and removes dead packs first."""

    def work(send: Send) -> None:
        patch = pytest.MonkeyPatch()
        patch.setattr(Space, "free", LOW)
        patch.setattr(space, "RETURN_SECONDS", 0.0)
        if trap is not None:
            # Random ids would change which calls a run makes, and so which call the N-th one is.
            ids = (PackId(f"{number:032x}") for number in range(1000))
            patch.setattr(rewrite, "new_pack_id", lambda tag="": next(ids))
            trap.install(send)
        with writing(history.path) as repository:
            outcome = prune(repository, EVERYTHING, pack_bytes=SMALL_PACK)
            send({"freed": outcome.freed_bytes})

    return run_child(work)


def prove(history: History) -> None:
    """No live object is lost, and another prune completes the work."""

    def work(send: Send) -> None:
        history.verify()

    assert run_child(work).messages == []
    assert prune_where_space_is_low(history).code == 0
    assert run_child(work).messages == []


@pytest.mark.parametrize("action", ["kill", "ENOSPC"])
def test_a_prune_in_steps_that_ends_at_any_call_loses_nothing(
    stock: History, action: Action
) -> None:
    names = set[str]()
    for at in range(400):
        with stock.copied(stock.path.with_name("copy")) as history:
            ended = prune_where_space_is_low(history, Trap(at, action))
            prove(history)
        if not ended.values("triggered"):
            break
        names |= set(ended.values("triggered"))
        assert ended.values("bug") == []

    assert ended.code == 0
    assert names >= {"open", "writev", "fsync", "rename"}
