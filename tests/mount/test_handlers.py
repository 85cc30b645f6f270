"""Inject exceptions in every FUSE handler, at each call and at each await."""

import contextlib
import errno
import inspect
import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from cbtfs.core.manifest import Manifest
from cbtfs.mount.fuse import FuseOperations
from tests.mount.mount_process import Server, serving, wait_until

pytestmark = pytest.mark.mounts

ROUNDS: Final = 300
_BUG: Final = "this is a bug"

_FAULTY = """
import os, sys, types
from pathlib import Path
import trio
from cbtfs.cli.main import run
from cbtfs.mount import fuse

os.dup2(os.open({log!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)

strikes = os.open({strikes!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def strike(point):
    try:
        chosen = Path({trigger!r}).read_text()
    except FileNotFoundError:
        return
    if chosen == point:
        os.write(strikes, b"x")
        raise ValueError("injected")

def guarded(point, real):
    def call(*arguments, **named):
        strike(point)
        return real(*arguments, **named)
    call.point = point
    return call

class Faulty:
    def __init__(self, backend):
        self._backend = backend
    def __getattr__(self, name):
        return guarded("backend." + name, getattr(self._backend, name))

serve = fuse.FuseOperations.serve
fuse.FuseOperations.serve = lambda self, backend, *rest: serve(self, Faulty(backend), *rest)

pyfuse3 = types.SimpleNamespace(**vars(fuse.pyfuse3))
for name in ("EntryAttributes", "FileInfo", "readdir_reply", "StatvfsData"):
    setattr(pyfuse3, name, guarded("pyfuse3." + name, getattr(pyfuse3, name)))
fuse.pyfuse3 = pyfuse3

async def run_sync(call, *arguments, **named):
    strike("before " + call.point)
    result = await trio.to_thread.run_sync(call, *arguments, **named)
    strike("after " + call.point)
    return result

fuse.trio = types.SimpleNamespace(**vars(trio))
fuse.trio.to_thread = types.SimpleNamespace(run_sync=run_sync)
run()
"""


def files_in(folder: Path) -> tuple[Path, Path, Path]:
    """Return the paths of the trigger, of the log and of a file with one byte per exception."""
    return folder / "trigger", folder / "log", folder / "strikes"


class Mounted:
    """A mount that fails at a chosen point, and a use of each handler."""

    def __init__(self, server: Server, point: Manifest, folder: Path) -> None:
        self.server = server
        self._disk, self._json = server.disk(point), server.folder(point) / "vm.json"
        self._trigger, self._log, self._strikes = files_in(folder)
        self._open_json = os.open(self._json, os.O_RDONLY)

    def close(self) -> None:
        os.close(self._open_json)

    def lookup(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            (self.server.root / "nothing").lstat()

    def getattr(self) -> None:
        os.fstat(self._open_json)

    def readlink(self) -> None:
        os.readlink(self.server.root / "vm" / "latest")

    def readdir(self) -> None:
        os.listdir(self.server.root)

    def open(self) -> None:
        os.close(os.open(self._disk, os.O_RDONLY))

    def statfs(self) -> None:
        os.statvfs(self.server.root)

    def uses(self) -> dict[str, Callable[[], None]]:
        return {name: getattr(self, name) for name in {*POINTS.values()} - {"release"}}

    @contextlib.contextmanager
    def failing(self, point: str) -> Iterator[None]:
        aside = self._trigger.with_suffix(".new")
        aside.write_text(point)
        aside.rename(self._trigger)
        try:
            yield
        finally:
            self._trigger.unlink()

    @property
    def strikes(self) -> int:
        """Number of injected exceptions; requests of other programs count as well."""
        return self._strikes.stat().st_size

    @property
    def bugs(self) -> int:
        """Number of bugs reported in the log."""
        return self._log.read_text().count(_BUG)


POINTS: Final = {
    "backend.lookup": "lookup",
    "backend.entry": "getattr",
    "backend.target": "readlink",
    "backend.entries": "readdir",
    "backend.open": "open",
    "backend.close": "release",
    "pyfuse3.EntryAttributes": "getattr",
    "pyfuse3.readdir_reply": "readdir",
    "pyfuse3.FileInfo": "open",
    "pyfuse3.StatvfsData": "statfs",
}
"""Points of injection, and the handler that reaches each."""
CASES: Final = [
    *POINTS.items(),
    *(
        (f"{when} {point}", handler)
        for point, handler in POINTS.items()
        for when in ("before", "after")
        if point.startswith("backend.")
    ),
]
"""The calls of the backend are awaited: inject before they begin and after they end."""
CANNOT_FAIL: Final = {
    *("opendir", "releasedir", "forget", "flush", "fsync", "fsyncdir", "listxattr", "getxattr"),
    *("setattr", "mknod", "mkdir", "unlink", "rmdir", "symlink", "rename", "link", "create"),
    *("write", "setxattr", "removexattr", "_refuse", "_not_supported"),
}
"""Handlers without calls. test_faults.py tests reads."""


@pytest.fixture
def mount(repository: Path, point: Manifest, tmp_path: Path) -> Iterator[Mounted]:
    trigger, log, strikes = map(str, files_in(tmp_path))
    program = (sys.executable, "-c", _FAULTY.format(trigger=trigger, log=log, strikes=strikes))
    with serving(repository, tmp_path / "mnt", "--workers=1", program=program) as server:
        mounted = Mounted(server, point, tmp_path)
        yield mounted
        mounted.close()
    assert server.wait() == 0


def test_the_cases_include_every_handler() -> None:
    handlers = {
        name for name, member in vars(FuseOperations).items() if inspect.iscoroutinefunction(member)
    }

    assert handlers - {"_run"} == {*POINTS.values()} | CANNOT_FAIL


def test_each_exception_is_one_eio_and_one_log_line_and_the_mount_continues(
    mount: Mounted,
) -> None:
    workers = mount.server.workers()
    uses, rnd = mount.uses(), random.Random(1)

    for point, handler in [*CASES, *rnd.choices(CASES, k=ROUNDS)]:
        before = mount.strikes
        with mount.failing(point):
            if handler == "release":
                mount.open()  # close() does not wait for the release.
                assert wait_until(lambda: mount.strikes > before), point  # noqa: B023
            else:
                with pytest.raises(OSError, match=r".") as caught:
                    uses[handler]()
                assert caught.value.errno == errno.EIO, point
        assert mount.strikes > before, point
        assert wait_until(lambda: mount.bugs == mount.strikes), point
        uses.get(handler, mount.open)()

    assert mount.server.workers() == workers
