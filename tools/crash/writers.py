"""Campaign: several writers and prunes at once, killed and stopped at random moments."""

import contextlib
import hashlib
import json
import os
import random
import select
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cbtfs.check.check import check
from cbtfs.core.ids import PointId
from cbtfs.core.manifest import Manifest
from cbtfs.errors import ChunkMissing, ExitCode, PointNotFound
from cbtfs.ingest.inputs import DiskInput, PointOptions, VmInput
from cbtfs.ingest.point import commit_point, take_point
from cbtfs.listing import points
from cbtfs.prune.prune import prune
from cbtfs.prune.select import PruneLimits
from cbtfs.reader import Reader
from cbtfs.source.content import ContentSource
from cbtfs.source.listed import ChangeList, ListedSource
from cbtfs.store.repository import Repository, create_repository, reading, rebuild_catalog, writing
from cbtfs.store.settings import new_settings
from tools.crash.child import Send, Work, run_as_child, run_child
from tools.crash.result import CampaignResult
from tools.crash.verify import Violation

BLOCK: Final = 4096
_PACK_BYTES: Final = 12 * BLOCK
_BLOCKS: Final = 24
_KINDS: Final = 60
"""Different contents of blocks, so that captures share most blocks."""
_VMS: Final = 3
_MOST: Final = 5
"""Largest number of programs at once."""
_SHARES: Final = {
    "capture": 42,
    "forget": 16,
    "unforget": 6,
    "prune": 20,
    "read": 14,
    "rebuild": 2,
}
_DISK: Final = "disk"
_KILL, _STOP = 0.25, 0.25
"""Shares of the programs that are killed, and that are stopped for some time."""


def _block(number: int) -> bytes:
    return random.Random(number).randbytes(BLOCK)


def _content(rnd: random.Random) -> bytes:
    return b"".join(_block(rnd.randrange(_KINDS)) for _ in range(_BLOCKS))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _listed(repository: Repository) -> list[Manifest]:
    with repository.catalog.view() as view:
        return [point.manifest for point in points(view)]


def _read(repository: Repository, manifest: Manifest) -> bytes:
    """Return the disk of a point; Violation if it is not that which was captured."""
    record = manifest.disks[0]
    content = bytes(Reader(repository).disk(record).read(0, record.size))
    if _digest(content) != manifest.metadata["sha256"]:
        raise Violation(f"point {manifest.point} returns wrong bytes")
    return content


@dataclass(frozen=True, slots=True)
class _Actions:
    """The programs of the campaign, each as work of a child."""

    path: Path

    def capture(self, rnd: random.Random) -> Work:
        """Capture a VM, relative to its newest point or completely."""
        vm, is_full = f"vm{rnd.randrange(_VMS)}", rnd.random() < 0.3

        def work(send: Send) -> None:
            with writing(self.path) as repository:
                objects = repository.object_writer(_PACK_BYTES)
                with closing(objects):
                    source, content = self._source(repository, vm, rnd, is_full=is_full)
                    disk = DiskInput(_DISK, source, _DISK)
                    options = PointOptions(datetime.now(UTC))
                    taken = take_point(repository, objects, VmInput(vm), [disk], options)
                    facts = {"sha256": _digest(content)}
                    manifest = commit_point(repository, objects, taken, facts)
            send({"point": manifest.point, "sha256": facts["sha256"]})

        return work

    def _source(
        self, repository: Repository, vm: str, rnd: random.Random, *, is_full: bool
    ) -> tuple[ListedSource, bytes]:
        mine = [m for m in _listed(repository) if m.vm.name == vm]
        base = max(mine, key=lambda m: (m.order, m.point), default=None)
        content = None
        if base is not None and not is_full:
            with contextlib.suppress(PointNotFound), repository.points.leased(base.point):
                content = _read(repository, base)
        if base is None or content is None:
            content = _content(rnd)
            changes = ChangeList(((0, len(content)),), "none")
            return ListedSource(ContentSource(content), changes), content
        changed = sorted(rnd.sample(range(_BLOCKS), rnd.randrange(4)))
        parts = bytearray(content)
        for number in changed:
            parts[number * BLOCK : (number + 1) * BLOCK] = _block(rnd.randrange(_KINDS))
        extents = tuple((number * BLOCK, BLOCK) for number in changed)
        changes = ChangeList(extents, base.point)
        return ListedSource(ContentSource(bytes(parts)), changes, base.point), bytes(parts)

    def forget(self, rnd: random.Random) -> Work:
        def work(send: Send) -> None:
            with writing(self.path) as repository:
                listed = _listed(repository)
                if len(listed) > _VMS:
                    point = rnd.choice(listed).point
                    send({"forgets": point})
                    with contextlib.suppress(PointNotFound):
                        repository.forget([point])

        return work

    def unforget(self, rnd: random.Random) -> Work:
        def work(send: Send) -> None:
            with writing(self.path) as repository:
                forgotten = repository.forgotten().manifests
                if forgotten:
                    point = rnd.choice(forgotten).point
                    try:
                        repository.points.unforget([point])
                    except PointNotFound:
                        return
                    send({"restored": point})

        return work

    def prune(self, rnd: random.Random) -> Work:
        limits, patience = PruneLimits(rnd.choice([0.0, 0.05])), rnd.choice([0.0, 0.5])

        def work(send: Send) -> None:
            with writing(self.path) as repository:
                result = prune(repository, limits, pack_bytes=_PACK_BYTES, patience=patience)
            send({"removed": result.removed_packs})

        return work

    def read(self, rnd: random.Random) -> Work:
        def work(send: Send) -> None:
            with reading(self.path) as repository:
                for _ in range(5):
                    listed = _listed(repository)
                    if not listed:
                        return
                    manifest = rnd.choice(listed)
                    with (
                        contextlib.suppress(PointNotFound),
                        repository.points.leased(manifest.point),
                    ):
                        _read(repository, manifest)
                        send({"read": manifest.point})

        return work

    def rebuild(self, rnd: random.Random) -> Work:
        """Remove the catalog, which is derived."""

        def work(send: Send) -> None:
            rebuild_catalog(self.path)
            send({"rebuilt": rnd.random()})

        return work


@dataclass(slots=True)
class _Program:
    """A running child."""

    kind: str
    pid: int
    fd: int
    kill_at: float | None
    stop_at: float | None
    stop_seconds: float
    received: bytearray = field(default_factory=bytearray)
    continue_at: float | None = None


@dataclass(slots=True)
class _Campaign:
    path: Path
    rnd: random.Random
    stop_seconds: float
    running: list[_Program] = field(default_factory=list)
    acknowledged: dict[PointId, str] = field(default_factory=dict)
    may_be_forgotten: set[PointId] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)

    def start(self) -> None:
        rnd = self.rnd
        kind = rnd.choices([*_SHARES], [*_SHARES.values()])[0]
        if kind == "rebuild" and self.running:
            kind = "read"
        make: Callable[[random.Random], Work] = getattr(_Actions(self.path), kind)
        work = make(random.Random(rnd.random()))
        reading_end, writing_end = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading_end)
            run_as_child(work, writing_end)
        os.close(writing_end)
        now = time.monotonic()
        kill_at = now + rnd.random() * 0.6 if rnd.random() < _KILL else None
        stop_at = now + rnd.random() * 0.4 if rnd.random() < _STOP else None
        stop = rnd.random() * self.stop_seconds
        self.running.append(_Program(kind, pid, reading_end, kill_at, stop_at, stop))
        self.counts[kind] += 1

    def step(self) -> None:
        """Send signals that are due, and take messages."""
        now = time.monotonic()
        for program in self.running:
            if program.continue_at is not None and now >= program.continue_at:
                os.kill(program.pid, signal.SIGCONT)
                program.continue_at = None
            if program.stop_at is not None and now >= program.stop_at:
                os.kill(program.pid, signal.SIGSTOP)
                self.counts["stopped"] += 1
                program.stop_at, program.continue_at = None, now + program.stop_seconds
            if program.kill_at is not None and now >= program.kill_at:
                os.kill(program.pid, signal.SIGKILL)
                program.kill_at = program.continue_at = program.stop_at = None
        ready, _, _ = select.select([program.fd for program in self.running], [], [], 0.02)
        for program in [program for program in self.running if program.fd in ready]:
            data = os.read(program.fd, 1 << 16)
            program.received += data
            if not data:
                self.end(program)

    def end(self, program: _Program) -> None:
        self.running.remove(program)
        os.close(program.fd)
        _, status = os.waitpid(program.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        lines = program.received.splitlines(keepends=True)
        messages = [json.loads(line) for line in lines if line.endswith(b"\n")]
        for message in messages:
            if "point" in message:
                self.acknowledged[PointId(message["point"])] = message["sha256"]
            if "forgets" in message:
                self.may_be_forgotten.add(PointId(message["forgets"]))
            self.counts["reads"] += "read" in message
            self.counts["packs removed"] += message.get("removed", 0)
        if code == -signal.SIGKILL:
            self.counts["killed"] += 1
        elif code == ExitCode.FAILURE and messages[-1]["class"] in ("RunFenced", "StoreFailed"):
            self.counts["refused"] += 1
        elif code:
            raise Violation(f"{program.kind} ended with {code}: {messages[-1]}")

    def kill_all(self) -> None:
        for program in self.running:
            os.kill(program.pid, signal.SIGKILL)
            os.waitpid(program.pid, 0)
            os.close(program.fd)
        self.running.clear()

    def prove(self, send: Send) -> None:
        """Verify that every acknowledged point is listed and reads, before and after prunes."""
        for limits in (None, PruneLimits(0.0), PruneLimits(0.0)):
            if limits is not None:
                with writing(self.path) as repository:
                    prune(repository, limits, pack_bytes=_PACK_BYTES)
            with reading(self.path) as repository:
                listed = {manifest.point: manifest for manifest in _listed(repository)}
                for point, digest in self.acknowledged.items():
                    if point in listed and listed[point].metadata["sha256"] != digest:
                        raise Violation(f"point {point} has another content")
                    if point not in listed and point not in self.may_be_forgotten:
                        raise Violation(f"point {point} is not listed")
                for manifest in listed.values():
                    try:
                        _read(repository, manifest)
                    except ChunkMissing as exc:
                        raise Violation(f"point {manifest.point} lost an object: {exc}") from exc
            report = check(self.path, read_data=True)
            if report.problems:
                raise Violation(f"check: {report.problems[0]}")
        left = [*(self.path / "intents").iterdir(), *self.path.glob("prunes/*.candidates")]
        left += [*self.path.glob("packs/*/*.open")]
        if left:
            raise Violation(f"{left[0]} is left")
        send({"points": len(listed)})


def writers(folder: Path, seed: int, count: int) -> CampaignResult:
    """Run *count* programs, up to five at once; kill a quarter, stop another quarter."""
    path, rnd = folder / "repository", random.Random(seed)
    create_repository(path, new_settings(BLOCK, 1, is_shared=True))
    campaign = _Campaign(path, rnd, 2.0 if count < 500 else 30.0)
    try:
        started = 0
        while started < count or campaign.running:
            if started < count and len(campaign.running) < _MOST:
                campaign.start()
                started += 1
            campaign.step()
    finally:
        campaign.kill_all()
    proof = run_child(campaign.prove)
    if proof.code:
        raise Violation(f"seed {seed}: {proof.messages[-1]}")
    counts = campaign.counts
    note = ", ".join(f"{what} {number}" for what, number in sorted(counts.items()))
    (points_left,) = proof.values("points")
    return CampaignResult("writers", count, "programs", points_left, note=note)
