"""Run the demo with the commands that a user types, and compare every byte afterwards."""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cbtfs import process
from cbtfs.demo.commands import check_requirements, run
from cbtfs.demo.guest import FileTree, Guest, changed_areas, file_trees, sha256
from cbtfs.demo.site import SimulatedVcenter, simulated_vcenter
from cbtfs.errors import CbtfsError, DataCorrupt, UsageError

VM: Final = "web01"
DISK: Final = "disk0"
_DAYS: Final = 4
_READY_SECONDS: Final = 60


@dataclass(frozen=True, slots=True)
class ComparedPoint:
    """One restore point and the result of its comparison with the golden copy."""

    name: str
    ingest: dict[str, Any]
    """The JSON document of `ingest --json`."""
    is_same_disk: bool
    """The raw file in the mount has the hash of the golden copy."""
    is_same_files: bool
    """Its file systems contain the same files as those of the golden copy."""


@dataclass(frozen=True, slots=True)
class _Golden:
    image: Path
    sha256: str
    trees: list[FileTree]


Progress = Callable[[str], None]
"""Called with a line of text at each step."""


def demonstrate(
    folder: Path, on_progress: Progress, *, over_vsphere: bool, repository: Path | None = None
) -> list[ComparedPoint]:
    """Run the demo in the empty *folder* and return the compared points.

    *over_vsphere*: the disk belongs to a VM on a simulated vCenter, and is captured over TLS. The
    new repository is in *folder* unless *repository* names another place.
    """
    repository = repository or folder / "repository"
    check_requirements()
    guest = Guest(folder)
    on_progress("creating the disk of a guest: GPT, ext4, XFS, real files")
    guest.install()
    if not over_vsphere:
        return _capture_and_compare(folder, repository, guest, on_progress, None)
    on_progress("starting a simulated vCenter with a VM that has this disk")
    with simulated_vcenter(folder, VM, DISK, guest.image) as site:
        return _capture_and_compare(folder, repository, guest, on_progress, site)


def _capture_and_compare(
    folder: Path,
    repository: Path,
    guest: Guest,
    on_progress: Progress,
    site: SimulatedVcenter | None,
) -> list[ComparedPoint]:
    _cbtfs(repository, "init")
    golden: list[_Golden] = []
    ingests = []
    for day in range(_DAYS):
        if day:
            guest.work(day)
        golden.append(_copy(guest, folder, day))
        on_progress(
            f"day {day}: " + ("capturing the changes" if day else "capturing the whole disk")
        )
        ingests.append(_ingest(repository, guest, golden, site))
    _cbtfs(repository, "check", "--read-data")
    names = [point["name"] for point in _list_points(repository)]
    on_progress("mounting the repository and comparing every point with its golden copy")
    points = []
    with _mount(repository, folder / "mnt") as mount:
        for name, ingest, copy in zip(names, ingests, golden, strict=True):
            raw = mount / VM / name / f"{DISK}.raw"
            points.append(
                ComparedPoint(
                    f"{VM}@{name}",
                    ingest,
                    is_same_disk=sha256(raw) == copy.sha256,
                    is_same_files=file_trees(raw, folder / "look") == copy.trees,
                )
            )
    return points


def require_equal(points: list[ComparedPoint]) -> None:
    """Check that every point equals its golden copy.

    Raises:
        DataCorrupt: a point differs.
    """
    wrong = [point.name for point in points if not (point.is_same_disk and point.is_same_files)]
    if wrong:
        raise DataCorrupt(
            f"the demo failed: {', '.join(wrong)} differs from its golden copy; report this bug"
        )


def _copy(guest: Guest, folder: Path, day: int) -> _Golden:
    copy = folder / f"golden-{day}.raw"
    run("cp", "--sparse=always", guest.image, copy)
    return _Golden(copy, sha256(copy), file_trees(copy, folder / "look"))


def _ingest(
    repository: Path, guest: Guest, golden: list[_Golden], site: SimulatedVcenter | None
) -> dict[str, Any]:
    if site is not None:
        document = json.loads(
            _cbtfs(
                repository, "ingest", "vsphere", "--json", "--transport", "nfc", *site.arguments, VM
            )
        )
        point: dict[str, Any] = document["points"][0]
        return point
    command = ["ingest", "image", "--json", "--vm", VM, "--disk", DISK, str(guest.image)]
    if len(golden) > 1:
        change_list = guest.image.with_name("changed.json")
        change_list.write_text(json.dumps(changed_areas(golden[-2].image, golden[-1].image)))
        command += ["--changed", str(change_list)]
    captured: dict[str, Any] = json.loads(_cbtfs(repository, *command))
    return captured


def _list_points(repository: Path) -> list[dict[str, Any]]:
    listed = json.loads(_cbtfs(repository, "list", "--json", VM))["points"]
    return [json.loads(_cbtfs(repository, "show", "--json", point["id"])) for point in listed]


def _command(repository: Path, *arguments: str) -> list[str | Path]:
    return process.module("cbtfs", "--repo", repository, *arguments)


def _cbtfs(repository: Path, *arguments: str) -> str:
    """Return the standard output of a cbtfs command."""
    return run(*_command(repository, *arguments), env=process.repository_environment())


@contextmanager
def _mount(repository: Path, at: Path) -> Iterator[Path]:
    """Mount the repository at *at* in another process."""
    at.mkdir()
    command = _command(repository, "mount", "--foreground", str(at))
    environment = process.repository_environment()
    with process.start(command, stdout=process.PIPE, env=environment) as server:
        if process.first_line(server, _READY_SECONDS) != b"ready\n":
            raise CbtfsError("the mount did not start: see its errors above")
        try:
            yield at
        finally:
            run("umount", at)


@contextmanager
def work_folder(keep: Path | None) -> Iterator[Path]:
    """Yield an empty directory: *keep*, which is kept, or one that is removed afterwards."""
    import tempfile

    if keep is not None:
        try:
            keep.mkdir(parents=True)
        except OSError as exc:
            raise UsageError(f"cannot create {keep}: {exc.strerror}; name a new directory") from exc
        yield keep
        return
    folder = Path(tempfile.mkdtemp(prefix="cbtfs-demo-", dir="/var/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def timed(
    folder: Path, on_progress: Progress, *, over_vsphere: bool, repository: Path | None = None
) -> tuple[list[ComparedPoint], float]:
    """Run the demo. Return the compared points and the duration in seconds."""
    started = time.monotonic()
    points = demonstrate(folder, on_progress, over_vsphere=over_vsphere, repository=repository)
    return points, time.monotonic() - started
