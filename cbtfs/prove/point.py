"""The proof of one point: its levels in ascending order, up to the first that is not passed."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cbtfs import __version__
from cbtfs.core.manifest import Manifest, PointState
from cbtfs.core.moment import format_moment, parse_moment
from cbtfs.core.proof import Proof, bounded
from cbtfs.errors import ChunkMissing, DataCorrupt, MountFailed
from cbtfs.listing import Point
from cbtfs.mount.mountpoint import load_status
from cbtfs.mount.private import PrivateMount
from cbtfs.prove.boot import boot
from cbtfs.prove.fsck import Checker
from cbtfs.prove.observe import ACCEPTABLE, BootOptions
from cbtfs.prove.part import Part, Refuted, Stopped, Untestable
from cbtfs.prove.volumes import Volume, examine
from cbtfs.qemu.objects import require_objects
from cbtfs.reader import Reader
from cbtfs.restore.convert import first_loss
from cbtfs.restore.image import pieces
from cbtfs.store.repository import Repository

Advance = Callable[[int], None]
_CACHE_BYTES: Final = 8 << 20
"""Superblocks and tables are read in small pieces."""


@dataclass(frozen=True, slots=True)
class Options:
    """The tests of a proof."""

    level: int
    check_seconds: float
    """Age up to which a verification of all data by `check` passes level 1."""
    boot: BootOptions = field(default_factory=BootOptions)


@dataclass(slots=True)
class Proven:
    """The result of a proof."""

    point: Point
    proof: Proof
    parts: list[Part] = field(default_factory=list)
    seconds: float = 0.0
    unrecorded: str | None = None
    """Why the result is not in the repository; None if it is."""

    @property
    def has_passed(self) -> bool:
        """Whether the point passed every level that was asked for."""
        return self.proof.failure is None and self.proof.obstacle is None


@dataclass(slots=True)
class Prover:
    """Tests points of one repository, several at once."""

    repository: Repository
    mounted: PrivateMount | None
    """None if no level needs the files of points."""
    options: Options
    stop: threading.Event

    def prove(self, point: Point, advance: Advance) -> Proven:
        """Return the result of all levels up to that of the options.

        *advance* receives bytes of data.

        Raises:
            PointNotFound: the point was forgotten.
            MountFailed: the mount ended.
            Stopped: the command ends.
        """
        with self.repository.points.leased(point.manifest.point):
            return _Proof(self, point, advance).run()


class _Proof:
    """One proof in progress."""

    def __init__(self, prover: Prover, point: Point, advance: Advance) -> None:
        self._prover = prover
        self._repository = prover.repository
        self._point = point
        self._manifest: Manifest = point.manifest
        self._advance = advance
        self._volumes: list[Volume] = []
        self._parts: list[Part] = []
        self._restore: int | None = None
        self._verdict: str | None = None

    def run(self) -> Proven:
        started = time.monotonic()
        level: int | None = None
        failure = obstacle = None
        levels = (
            self._maps,
            self._data,
            self._superblocks,
            self._file_systems,
            self._boot,
        )
        for number, test in enumerate(levels[: self._prover.options.level + 1]):
            try:
                test()
                _conclude(self._parts, number)
            except Refuted as exc:
                failure = f"level {number}: {exc}"
                break
            except Untestable as exc:
                obstacle = f"level {number}: {exc}"
                break
            level = number
        now = format_moment(datetime.now(UTC).replace(microsecond=0))
        notes = bounded([part.line for part in self._parts])
        proof = Proof(
            level, now, now, f"cbtfs {__version__}", failure, obstacle, self._verdict,
            self._restore, notes,
        )  # fmt: skip
        return Proven(self._point, proof, self._parts, time.monotonic() - started)

    def _maps(self) -> None:
        """Level 0: every node of the block maps is present, and no object is known as corrupt."""
        try:
            require_objects(self._repository, self._manifest)
        except (ChunkMissing, DataCorrupt) as exc:
            raise Refuted(str(exc)) from exc

    def _data(self) -> None:
        """Level 1: all data matches its digests."""
        if _is_recent(self._point.state, self._prover.options.check_seconds):
            self._advance(sum(disk.data_bytes for disk in self._manifest.disks))
            return
        started = time.monotonic()
        reader = Reader(self._repository, cache_bytes=0)
        for disk in self._manifest.disks:
            for piece in pieces(reader, disk, lambda *_: None):
                if piece.loss is not None:
                    raise Refuted(f"disk {disk.label}: {piece.loss}")
                if self._prover.stop.is_set():
                    raise Stopped("stopped")
                self._advance(piece.extent.length)
        self._restore = int((time.monotonic() - started) * 1000)

    def _superblocks(self) -> None:
        """Level 2: partition tables and superblocks."""
        reader = Reader(self._repository, cache_bytes=_CACHE_BYTES)
        self._volumes, parts = examine(reader, self._manifest)
        self._parts += parts

    def _file_systems(self) -> None:
        """Level 3: the check of each file system."""
        mounted = self._prover.mounted
        assert mounted is not None
        folder = self._folder(mounted)
        checker = Checker(folder, self._prover.stop)
        before = _errors(mounted)
        for volume in self._volumes:
            self._parts.append(checker.check(volume))
        if _errors(mounted) != before:
            self._refuse_loss()

    def _boot(self) -> None:
        """Level 4: the boot of the guest."""
        mounted, options = self._prover.mounted, self._prover.options.boot
        assert mounted is not None
        disks = [
            (disk, mounted.path(self._manifest, disk)) for disk in self._manifest.of_kind("disk")
        ]
        before = _errors(mounted)
        booted = boot(self._repository, self._manifest, disks, options, self._prover.stop)
        if _errors(mounted) != before:
            self._refuse_loss()
        self._verdict = booted.verdict
        has_passed = options.passes(booted.verdict)
        text = f"{booted.verdict}: {booted.text}"
        if booted.verdict in ACCEPTABLE and not has_passed:
            text += f"; no {options.wanted}"
        self._parts.append(Part("guest", 4, "passed" if has_passed else "failed", text))

    def _folder(self, mounted: PrivateMount) -> Path:
        return mounted.path(self._manifest, self._manifest.disks[0]).parent

    def _refuse_loss(self) -> None:
        """Raise Refuted if data of this point cannot be read: its programs failed for that."""
        for disk in self._manifest.of_kind("disk"):
            loss = first_loss(self._repository, disk)
            if loss is not None:
                raise Refuted(f"disk {disk.label}: {loss}")


def _conclude(parts: list[Part], level: int) -> None:
    """Raise an error unless the parts of a level pass it."""
    mine = [part for part in parts if part.level == level]
    failed = [part for part in mine if part.result == "failed"]
    if failed:
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        raise Refuted(f"{failed[0].name}: {failed[0].text}{more}")
    if level != 3:
        return
    untested = [part for part in parts if part.level >= 2 and part.result == "untested"]
    if untested:
        raise Untestable(f"{untested[0].name}: {untested[0].text}")
    if not any(part.result == "passed" for part in mine):
        raise Untestable("the point has no file system that is known")


def _is_recent(state: PointState, seconds: float) -> bool:
    if state.verified is None:
        return False
    age = datetime.now(UTC) - parse_moment(state.verified)
    return timedelta(0) <= age <= timedelta(seconds=seconds)


def _errors(mounted: PrivateMount) -> int:
    """Return the number of failed reads of the mount; MountFailed if it ended."""
    try:
        return int(load_status(mounted.mountpoint)["errors"])
    except MountFailed as exc:
        raise MountFailed("the mount of the proof ended; run the command again") from exc
