"""The search over the points of a VM: its candidates, and the runs of the command."""

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cbtfs.bisect.command import DISK, FILES, OF_GUEST, OF_POINT, POINT, Ran, filled, run, uses
from cbtfs.bisect.files import unreadable_files
from cbtfs.bisect.guest import guest_of_point
from cbtfs.bisect.log import Log
from cbtfs.core.bisect import Result, Search, result_of
from cbtfs.core.filenames import GUEST_FILES
from cbtfs.core.ids import PointId, VmId
from cbtfs.core.manifest import DiskRecord
from cbtfs.core.names import printable
from cbtfs.errors import CbtfsError, ChunkMissing, MountFailed, PointNotFound, UsageError
from cbtfs.listing import Point, find_disk, labelled, points, vm_names
from cbtfs.mount.private import PrivateMount, private_mount
from cbtfs.prove.boot import Booted
from cbtfs.prove.observe import BootOptions
from cbtfs.restore.convert import first_loss
from cbtfs.restore.disk import plain_class
from cbtfs.store.repository import Repository

_NOT_RUN: Final = (126, 127)
"""Exit codes of a command that cannot be executed, or is not found."""
_UNREADABLE: Final = {"missing", "damaged"}
"""States of points that cannot be read."""


@dataclass(frozen=True, slots=True)
class Request:
    """Options of a search."""

    vm: VmId
    command: Sequence[str]
    label: str | None = None
    """Label or id of the disk; by default the only disk."""
    good: Point | None = None
    """By default the oldest point."""
    bad: Point | None = None
    """By default the newest point."""
    skip: frozenset[PointId] = frozenset()
    boot: BootOptions | None = None
    """How guests are booted before the command runs; None: they are not."""


@dataclass(frozen=True, slots=True)
class Question:
    """The points of a search, and the command that answers for each."""

    points: Sequence[Point]
    """In order of capture, from the good end to the bad end."""
    disks: Sequence[DiskRecord | None]
    """The disk of `{}` at each point; None if the command has no `{}`."""
    command: Sequence[str]
    skipped: frozenset[int]
    """Indexes of points that the command does not run on."""
    boot: BootOptions | None = None

    @property
    def words(self) -> list[str]:
        """The test as a list of words: it identifies logs of the same question."""
        boot = [] if self.boot is None else ["--boot", self.boot.least, self.boot.prompt, "--"]
        return [*boot, *self.command]

    @property
    def key(self) -> str:
        """Id of the disk or, without one, of the VM: it identifies logs of the same question."""
        disk = self.disks[0]
        return self.points[0].manifest.vm.id if disk is None else disk.id


@dataclass(frozen=True, slots=True)
class Run:
    """The result for one point."""

    point: Point
    result: Result
    code: int | None = None
    """Exit code of the command; None if the result is from the log, or the command did not run."""
    seconds: float | None = None
    """None if the result is from the log, or the point is gone."""
    guest: Booted | None = None
    """The guest, if it was booted."""
    reason: str | None = None
    """The reason for a skip without a run of the command."""


@dataclass(slots=True)
class Found:
    """The end of a search."""

    last_good: Point
    candidates: Sequence[Point]
    """Points that can be the first bad one: several if points between them were skipped."""
    runs: list[Run] = field(default_factory=list)

    @property
    def first_bad(self) -> Point | None:
        """The first bad point, if it is certain."""
        return self.candidates[0] if len(self.candidates) == 1 else None


def question_of(repository: Repository, request: Request) -> Question:
    """Return the points that *request* asks about.

    Raises:
        UsageError: the command has no placeholder, or the ends are not in order of capture.
        PointNotFound: there are less than two readable points, or no such disk.
        ChunkMissing: an end cannot be read.
    """
    _require_placeholder(request)
    with repository.catalog.view() as view:
        names = vm_names(view)
        every = [labelled(point, names) for point in points(view, request.vm)]
    readable = [point for point in every if not _UNREADABLE & set(point.marks)]
    if not readable:
        raise PointNotFound("the VM has no point that can be read: see 'cbtfs list'")
    disk = None
    if uses(request.command, DISK):
        disk = _disk_of(request.bad or readable[-1], request.label)
    elif request.label is not None:
        raise UsageError("the command has no {}, the disk of --disk: add {}, or omit --disk")
    every = [point for point in every if _has_disk(point, disk)]
    readable = [point for point in readable if _has_disk(point, disk)]
    if not readable:
        raise PointNotFound("no point of the VM has a disk")
    good, bad = _ends(request, readable)
    between = [
        point
        for point in every
        if good.manifest.order <= point.manifest.order <= bad.manifest.order
    ]
    if len(between) < 2 or between[0].manifest.point != good.manifest.point:
        raise UsageError(
            f"the good end {printable(good.spelled)} is not before the bad end "
            f"{printable(bad.spelled)}: a search needs an earlier point that passes and a later "
            "one that fails"
        )
    skipped = {
        index
        for index, point in enumerate(between)
        if point.manifest.point in request.skip or _UNREADABLE & set(point.marks)
    }
    for index in (0, len(between) - 1):
        if index in skipped:
            raise _unusable(between[index])
    disks = [None if disk is None else _disk_at(point, disk) for point in between]
    return Question(between, disks, request.command, frozenset(skipped), request.boot)


def _require_placeholder(request: Request) -> None:
    """Raise UsageError unless the command can depend on the point."""
    if request.boot is not None or any(uses(request.command, name) for name in OF_POINT):
        return
    for name in OF_GUEST:
        if uses(request.command, name):
            raise UsageError(f"{name} is a socket of a booted guest: add --boot")
    raise UsageError(
        "the command has no {}: use {} for the raw file of the disk, {files} for the files of the "
        "guest, or {point} for the directory of the point"
    )


def _unusable(point: Point) -> CbtfsError:
    name = printable(point.spelled)
    if _UNREADABLE & set(point.marks):
        return ChunkMissing(f"{name} is damaged: name another end with --good or --bad")
    return UsageError(f"{name} is an end of the search: it cannot be skipped")


def _disk_of(point: Point, label: str | None) -> DiskRecord:
    if label is not None:
        disk = find_disk(point, label)
        if disk.kind != "disk":
            raise UsageError(f"{printable(label)} is a small file of the VM, not a disk")
        return disk
    disks = point.manifest.of_kind("disk")
    if len(disks) != 1:
        labels = ", ".join(printable(disk.label) for disk in disks) or "none"
        raise UsageError(
            f"{printable(point.spelled)} has {len(disks)} disks ({labels}): name one with --disk"
        )
    return disks[0]


def _disk_at(point: Point, disk: DiskRecord) -> DiskRecord | None:
    return next((other for other in point.manifest.disks if other.id == disk.id), None)


def _has_disk(point: Point, disk: DiskRecord | None) -> bool:
    if disk is None:
        return bool(point.manifest.of_kind("disk"))
    return _disk_at(point, disk) is not None


def _ends(request: Request, readable: Sequence[Point]) -> tuple[Point, Point]:
    for end, option in ((request.good, "--good"), (request.bad, "--bad")):
        if end is not None and end.manifest.vm.id != request.vm:
            raise UsageError(f"{option} {printable(end.spelled)} is a point of another VM")
    return request.good or readable[0], request.bad or readable[-1]


@dataclass(frozen=True, slots=True)
class Tester:
    """Runs the command of a question on its points, in a private mount."""

    repository: Repository
    question: Question
    log: Log
    on_run: Callable[[Run, Search | None], None]
    """Called after each result; the second argument is the rest of the search between its ends."""

    def find(self) -> Found:
        """Check both ends, then search between them. No mount remains at the end.

        Raises:
            CbtfsError: the good end fails, the bad end passes, or the command ended by a signal.
            ChunkMissing, DataCorrupt: the command read damaged data.
            MountFailed: the mount cannot start, or ended.
        """
        runs: list[Run] = []
        last = len(self.question.points) - 1
        with ExitStack() as stack:
            mounts: list[PrivateMount] = []

            def test(index: int) -> Run:
                known = self.log.results.get(self.question.points[index].manifest.point)
                if known is not None:
                    done = Run(self.question.points[index], known)
                else:
                    if not mounts:
                        mounts.append(stack.enter_context(private_mount(self.repository.path)))
                    done = self._run(mounts[0], index)
                    name = done.point.spelled
                    self.log.add(done.point.manifest.point, name, done.result)
                runs.append(done)
                return done

            for index, expected in ((0, "good"), (last, "bad")):
                end = test(index)
                self.on_run(end, None)
                if end.result != expected:
                    raise _wrong_end(end, expected)
            search = Search(0, last, self.question.skipped)
            while (middle := search.next()) is not None:
                done = test(middle)
                search = search.after(middle, done.result)
                self.on_run(done, search)
        candidates = [self.question.points[index] for index in search.candidates]
        return Found(self.question.points[search.good], candidates, runs)

    def _run(self, mounted: PrivateMount, index: int) -> Run:
        """Run the command on a point. A point that is forgotten meanwhile is skipped."""
        point, disk = self.question.points[index], self.question.disks[index]
        try:
            with self.repository.points.leased(point.manifest.point):
                done = self._run_on(mounted, point, disk)
        except PointNotFound:
            return Run(point, "skip")
        if mounted.has_failed_reads():
            raise self._failed_reads(point, disk)
        return done

    def _run_on(self, mounted: PrivateMount, point: Point, disk: DiskRecord | None) -> Run:
        manifest, boot = point.manifest, self.question.boot
        path = mounted.path(manifest, disk or manifest.disks[0])
        paths = {DISK: path, POINT: path.parent, FILES: path.parent / GUEST_FILES}
        variables, guest = {}, None
        if uses(self.question.command, FILES):
            reason = unreadable_files(self.repository, manifest)
            if reason is not None:
                return Run(point, "skip", reason=reason)
        with ExitStack() as held:
            held.callback(os.close, _opened(path, point))
            if boot is not None:
                running = guest_of_point(self.repository, manifest, mounted, boot)
                booted = held.enter_context(running)
                guest, variables = booted.booted, booted.variables
                paths.update(booted.sockets)
                if not boot.passes(guest.verdict):
                    return Run(point, "bad", None, guest.seconds, guest)
            ran = run(filled(self.question.command, paths), variables)
        result = result_of(ran.code)
        if result is None and not mounted.has_failed_reads():
            raise CbtfsError(_ended(point, ran))
        return Run(point, result or "skip", ran.code, ran.seconds, guest)

    def _failed_reads(self, point: Point, disk: DiskRecord | None) -> CbtfsError:
        """Return the error of a run whose result says nothing about the disk."""
        name = printable(point.spelled)
        for record in point.manifest.of_kind("disk") if disk is None else [disk]:
            loss = first_loss(self.repository, record)
            if loss is not None:
                return plain_class(loss)(
                    f"disk {printable(record.label)} of {name} is damaged, so the result of the "
                    f"command is unknown: {loss}; to leave the point out, use --skip "
                    f"{point.manifest.point}"
                )
        return MountFailed(f"a read of the mount failed while the command ran on {name}")


def _opened(path: Path, point: Point) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as exc:
        raise MountFailed(
            f"cannot open the disk of {printable(point.spelled)}: {exc.strerror}"
        ) from exc


def _ended(point: Point, ran: Ran) -> str:
    if ran.code > 128:
        how = f"was ended by signal {ran.code - 128}, or exited with {ran.code}"
    else:
        how = f"exited with {ran.code}"
    return (
        f"the command {how} on {printable(point.spelled)}, which ends the search: exit codes are 0 "
        "good, 125 skip, 1 to 127 bad"
    )


def _wrong_end(end: Run, expected: str) -> CbtfsError:
    name = printable(end.point.spelled)
    option = f"--{expected}"
    if end.reason is not None:
        return CbtfsError(
            f"the files of the {expected} end {name} cannot be read: {end.reason}; name another "
            f"point with {option}"
        )
    if end.result == "skip":
        return CbtfsError(
            f"the command cannot test the {expected} end {name}: name another point with {option}"
        )
    if expected == "bad":
        return CbtfsError(
            f"the bad end {name} passes: no point is bad, or name one that fails with {option}"
        )
    if end.guest is not None and end.code is None:
        return CbtfsError(
            f"the guest of the good end {name} does not boot: {end.guest.verdict}: "
            f"{end.guest.text}; name an earlier point that boots with {option}"
        )
    if end.code in _NOT_RUN:
        return CbtfsError(
            f"the good end {name} fails with exit code {end.code}: the command was not found or "
            "cannot be executed"
        )
    return CbtfsError(
        f"the good end {name} fails: name an earlier point that passes with {option}, or correct "
        "the command"
    )
