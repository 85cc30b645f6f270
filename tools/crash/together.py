"""Campaign: readers read while a writer ingests, forgets, prunes and repairs."""

import hashlib
import json
import os
import random
import time
from pathlib import Path
from typing import Final

from cbtfs.errors import PointNotFound
from cbtfs.listing import points
from cbtfs.reader import Reader
from cbtfs.store.repository import Repository, reading
from tools.crash.campaign import Campaign, expect_success
from tools.crash.lifecycle import Lifecycle
from tools.crash.result import CampaignResult
from tools.crash.verify import Violation

_READERS: Final = 2
_REREAD: Final = 3


class SharedFiles:
    """Files that give readers the digests of all versions and the signal to end."""

    def __init__(self, folder: Path) -> None:
        self._digests = folder / "digests.json"
        self._end = folder / "end"

    def write(self, digests: list[str]) -> None:
        aside = self._digests.with_suffix(".tmp")
        aside.write_text(json.dumps(digests))
        aside.rename(self._digests)

    def digests(self) -> list[str]:
        digests: list[str] = json.loads(self._digests.read_text())
        return digests

    def end(self) -> None:
        self._end.touch()

    @property
    def is_ended(self) -> bool:
        return self._end.exists()


def _read_on(path: Path, shared: SharedFiles, seed: int, results: int) -> None:
    """Read and compare whole disks until the end; write the number of reads to *results*."""
    rnd = random.Random(seed)
    reads = 0
    with reading(path) as repository:
        reader = Reader(repository, cache_bytes=1 << 20)
        while not shared.is_ended:
            reader.refresh()
            reads += _read_one(repository, reader, shared, rnd)
    os.write(results, f"{reads}\n".encode())


def _read_one(
    repository: Repository, reader: Reader, shared: SharedFiles, rnd: random.Random
) -> int:
    with repository.catalog.view() as view:
        listed = list(points(view))
    if not listed:
        return 0
    manifest = rnd.choice(listed).manifest
    try:
        with repository.points.leased(manifest.point):
            disk = reader.disk(manifest.disks[0])
            for _ in range(_REREAD):
                content = disk.read(0, disk.size)
                if (
                    hashlib.sha256(content).hexdigest()
                    != shared.digests()[manifest.metadata["version"]]
                ):
                    raise Violation(f"point {manifest.point} returns wrong bytes")
    except PointNotFound:
        return 0
    return _REREAD


def _fork_reader(path: Path, shared: SharedFiles, seed: int, results: int) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        _read_on(path, shared, seed, results)
        code = 0
    except BaseException as exc:
        os.write(2, f"reader: {type(exc).__name__}: {exc}\n".encode())
    finally:
        os._exit(code)


def together(folder: Path, seed: int, seconds: int) -> CampaignResult:
    """Run two readers during all operations of a writer for *seconds* seconds."""
    lifecycle = Lifecycle(Campaign(folder, seed))
    campaign, shared = lifecycle.campaign, SharedFiles(folder)
    shared.write(campaign.guest.digests)
    for _ in range(3):
        campaign.run_undisturbed()
        shared.write(campaign.guest.digests)
    source, results = os.pipe()
    readers = [
        _fork_reader(campaign.repository, shared, seed + n, results) for n in range(_READERS)
    ]
    os.close(results)
    runs = 0
    try:
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            operation = lifecycle.next_operation()
            expect_success(
                lifecycle.run(operation, before=lambda: shared.write(campaign.guest.digests))
            )
            runs += 1
    finally:
        shared.end()
        codes = [os.waitstatus_to_exitcode(os.waitpid(reader, 0)[1]) for reader in readers]
    with os.fdopen(source) as reports:
        reads = sum(map(int, reports))
    if any(codes):
        raise Violation(f"readers exited with {codes}")
    lifecycle.prove_all()
    note = f"{reads} whole disks read and compared by {_READERS} readers"
    return CampaignResult("together", runs, "runs of a writer", campaign.points, 0, 0, note)
