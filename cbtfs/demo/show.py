"""The demo: every step by the commands that a user types, every byte compared afterwards."""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cbtfs import process
from cbtfs.demo.commands import require, run
from cbtfs.demo.guest import Guest, Tree, changes, sha256, trees
from cbtfs.demo.site import Site, simulated
from cbtfs.errors import CbtfsError, DataCorrupt, UsageError

VM: Final = "web01"
DISK: Final = "disk0"
_DAYS: Final = 4
_READY_SECONDS: Final = 60


@dataclass(frozen=True, slots=True)
class Outcome:
    """One restore point, and what came of comparing it."""

    name: str
    ingest: dict[str, Any]
    """What `ingest --json` said."""
    is_same_disk: bool
    """The raw file in the mount has the hash of the golden copy."""
    is_same_files: bool
    """Its file systems, loop-mounted, hold the same files."""


@dataclass(frozen=True, slots=True)
class _Golden:
    image: Path
    sha256: str
    trees: list[Tree]


Say = Callable[[str], None]


def demonstrate(folder: Path, say: Say, *, over_vsphere: bool) -> list[Outcome]:
    """Run the demo in the empty *folder*; DataCorrupt if one byte differs.

    *over_vsphere*: the disk is that of a VM on a simulated vCenter, and is captured over TLS.
    """
    require()
    guest = Guest(folder)
    say("making a guest's disk: GPT, ext4, XFS, real files")
    guest.install()
    if not over_vsphere:
        return _captured_and_compared(folder, guest, say, None)
    say("starting a simulated vCenter with a VM that has this disk")
    with simulated(folder, VM, DISK, guest.image) as site:
        return _captured_and_compared(folder, guest, say, site)


def _captured_and_compared(
    folder: Path, guest: Guest, say: Say, site: Site | None
) -> list[Outcome]:
    repository = folder / "repository"
    _cbtfs(repository, "init")
    golden: list[_Golden] = []
    ingests = []
    for day in range(_DAYS):
        if day:
            guest.work(day)
        golden.append(_copy(guest, folder, day))
        say(f"day {day}: " + ("capturing the changes" if day else "capturing the whole disk"))
        ingests.append(_ingest(repository, guest, golden, site))
    _cbtfs(repository, "check", "--read-data")
    names = [p["name"] for p in _names(repository)]
    say("mounting the repository, comparing every point with its golden copy")
    outcomes = []
    with _mount(repository, folder / "mnt") as mount:
        for name, ingest, copy in zip(names, ingests, golden, strict=True):
            raw = mount / VM / name / f"{DISK}.raw"
            outcomes.append(
                Outcome(
                    f"{VM}@{name}",
                    ingest,
                    is_same_disk=sha256(raw) == copy.sha256,
                    is_same_files=trees(raw, folder / "look") == copy.trees,
                )
            )
    return outcomes


def verdict(outcomes: list[Outcome]) -> None:
    """DataCorrupt unless every point is what the disk was."""
    wrong = [o.name for o in outcomes if not (o.is_same_disk and o.is_same_files)]
    if wrong:
        raise DataCorrupt(f"not what the disk was: {', '.join(wrong)}; this is a bug, report it")


def _copy(guest: Guest, folder: Path, day: int) -> _Golden:
    copy = folder / f"golden-{day}.raw"
    run("cp", "--sparse=always", guest.image, copy)
    return _Golden(copy, sha256(copy), trees(copy, folder / "look"))


def _ingest(
    repository: Path, guest: Guest, golden: list[_Golden], site: Site | None
) -> dict[str, Any]:
    if site is not None:
        document = json.loads(
            _cbtfs(repository, "ingest", "vsphere", "--json", *site.arguments, VM)
        )
        point: dict[str, Any] = document["points"][0]
        return point
    command = ["ingest", "image", "--json", "--vm", VM, "--disk", DISK, str(guest.image)]
    if len(golden) > 1:
        listed = guest.image.with_name("changed.json")
        listed.write_text(json.dumps(changes(golden[-2].image, golden[-1].image)))
        command += ["--changed", str(listed)]
    found: dict[str, Any] = json.loads(_cbtfs(repository, *command))
    return found


def _names(repository: Path) -> list[dict[str, Any]]:
    listed = json.loads(_cbtfs(repository, "list", "--json", VM))["points"]
    return [json.loads(_cbtfs(repository, "show", "--json", point["id"])) for point in listed]


def _command(repository: Path, *arguments: str) -> list[str | Path]:
    return process.module("cbtfs", "--repo", repository, *arguments)


def _cbtfs(repository: Path, *arguments: str) -> str:
    """Standard output of the cbtfs command with those arguments."""
    return run(*_command(repository, *arguments))


@contextmanager
def _mount(repository: Path, at: Path) -> Iterator[Path]:
    """The repository, mounted at *at* by a process of its own."""
    at.mkdir()
    command = _command(repository, "mount", "--foreground", str(at))
    with process.start(command, stdout=process.PIPE) as server:
        if process.first_line(server, _READY_SECONDS) != b"ready\n":
            raise CbtfsError("the mount did not come up")
        try:
            yield at
        finally:
            run("umount", at)


@contextmanager
def work_folder(keep: Path | None) -> Iterator[Path]:
    """An empty folder for the demo: *keep*, which stays, or one that goes afterwards."""
    import tempfile

    if keep is not None:
        try:
            keep.mkdir(parents=True)
        except OSError as exc:
            raise UsageError(f"cannot make {keep}: {exc.strerror}; name a new folder") from exc
        yield keep
        return
    folder = Path(tempfile.mkdtemp(prefix="cbtfs-demo-", dir="/var/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def timed(folder: Path, say: Say, *, over_vsphere: bool) -> tuple[list[Outcome], float]:
    """The outcomes, and how many seconds it all took."""
    started = time.monotonic()
    outcomes = demonstrate(folder, say, over_vsphere=over_vsphere)
    return outcomes, time.monotonic() - started
