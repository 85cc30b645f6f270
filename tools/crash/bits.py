"""Campaign: bits flip and pages rot, anywhere in a repository; no wrong byte is ever read."""

import random
import shutil
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from cbtfs.core.ids import PointId
from cbtfs.errors import CbtfsError
from cbtfs.listing import points
from cbtfs.reader import Reader
from cbtfs.store.catalog import gate
from cbtfs.store.repository import reading
from tools.crash.campaign import Campaign, expect_success
from tools.crash.child import Send, Work, run_child
from tools.crash.lifecycle import repairing
from tools.crash.result import CampaignResult
from tools.crash.verify import Violation

_PAGE: Final = 4096
_STEP: Final = 64 << 10
_SIGNALS: Final = (-signal.SIGABRT, -signal.SIGBUS, -signal.SIGSEGV)
"""LMDB has no checksums of its own pages: one that is not what its parent says can end a process.
Nothing wrong is read then; the next writer finds the lock left behind, or repair is called."""


def _flip(data: bytearray, rnd: random.Random) -> None:
    at = rnd.randrange(len(data))
    data[at] ^= 1 << rnd.randrange(8)


def _zero_page(data: bytearray, rnd: random.Random) -> None:
    at = rnd.randrange(len(data)) // _PAGE * _PAGE
    data[at : at + _PAGE] = bytes(len(data[at : at + _PAGE]))


def _swap_pages(data: bytearray, rnd: random.Random) -> None:
    pages = max(len(data) // _PAGE, 1)
    a, b = (rnd.randrange(pages) * _PAGE for _ in range(2))
    data[a : a + _PAGE], data[b : b + _PAGE] = data[b : b + _PAGE], data[a : a + _PAGE]


def _noise(data: bytearray, rnd: random.Random) -> None:
    at = rnd.randrange(len(data)) // _PAGE * _PAGE
    data[at : at + _PAGE] = rnd.randbytes(len(data[at : at + _PAGE]))


def _cut(data: bytearray, rnd: random.Random) -> None:
    del data[rnd.randrange(len(data)) :]


_DAMAGES: Final[tuple[Callable[[bytearray, random.Random], None], ...]] = (
    _flip,
    _flip,
    _flip,
    _zero_page,
    _swap_pages,
    _noise,
    _cut,
)


def read_all(path: Path, expected: Mapping[PointId, bytes]) -> Work:
    """Work that reads every point and tells how much was right, refused, and gone.

    A Violation at the first byte that is wrong.
    """

    def look(send: Send) -> None:
        right = refused = 0
        seen = set()
        try:
            with reading(path) as repository:
                with repository.catalog.view() as view:
                    listed = list(points(view))
                reader = Reader(repository)
                for point in listed:
                    number = point.manifest.point
                    seen.add(number)
                    disk = reader.disk(point.manifest.disks[0])
                    if disk.size != len(expected[number]):
                        raise Violation(f"point {number} has another size")
                    for at in range(0, disk.size, _STEP):
                        try:
                            found = disk.read(at, _STEP)
                        except CbtfsError:
                            refused += 1
                            continue
                        if found != expected[number][at : at + _STEP]:
                            raise Violation(f"point {number} reads wrong at {at}")
                        right += 1
        except CbtfsError as exc:
            send({"failed": type(exc).__name__})
        send({"right": right, "refused": refused, "unseen": len(expected.keys() - seen)})

    return look


def bits(folder: Path, seed: int, count: int) -> CampaignResult:
    """Damage one place at a time in packs, manifests, state files and catalog."""
    campaign = Campaign(folder, seed)
    expected = {}
    for _ in range(4):
        (point,) = campaign.run_undisturbed().values("point")
        expected[PointId(point)] = campaign.guest.path.read_bytes()
    victim = folder / "victim"
    right = refused = failed = ended = 0
    for number in range(count):
        shutil.copytree(campaign.repository, victim)
        file = _choose(victim, campaign.rnd)
        data = bytearray(file.read_bytes())
        damage = campaign.rnd.choice(_DAMAGES)
        damage(data, campaign.rnd)
        file.write_bytes(data)
        outcome = run_child(read_all(victim, expected))
        what = f"number {number}, {damage.__name__} of {file.relative_to(victim)}"
        is_catalog = file.name == gate.DATA
        if outcome.code in _SIGNALS and is_catalog:
            ended += 1
        elif outcome.code:
            raise Violation(f"{what}: {outcome}")
        if is_catalog:
            _prove_repair(victim, expected, what)
        right += sum(outcome.values("right"))
        refused += sum(outcome.values("refused"))
        failed += len(outcome.values("failed"))
        shutil.rmtree(victim)
    expect_success(run_child(read_all(campaign.repository, expected)))
    note = (
        f"{right} reads right, 0 wrong, {refused} refused, {failed} repositories refused, "
        f"{ended} processes ended by LMDB"
    )
    return CampaignResult("bits", count, "damages", len(expected), 0, 0, note)


def _prove_repair(path: Path, expected: Mapping[PointId, bytes], what: str) -> None:
    """A repair brings back everything, whatever became of the catalog."""
    expect_success(run_child(repairing(path, lambda send: None)))
    outcome = expect_success(run_child(read_all(path, expected)))
    if outcome.values("refused") != [0] or outcome.values("unseen") != [0]:
        raise Violation(f"{what}: not mended by repair: {outcome}")


def _choose(path: Path, rnd: random.Random) -> Path:
    """A file of the repository: each kind as often as the others, whatever its size."""
    kinds = [
        [*path.glob("packs/*/*")],
        [file for file in path.glob("points/*") if not file.suffix],
        [*path.glob("points/*.state")],
        [path / "catalog" / "data.mdb"],
        [path / "catalog" / "data.mdb"],
    ]
    return rnd.choice(sorted(rnd.choice(kinds)))
