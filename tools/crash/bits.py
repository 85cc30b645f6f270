"""Campaign: flip bits and damage pages anywhere in a repository; no read returns a wrong byte."""

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
"""Signals that a damaged catalog may cause: LMDB does not checksum its pages.

No wrong byte is read then. The next writer finds the stale lock, or the user runs repair."""


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
    """Return work that reads every point and sends the counts of correct, refused, unlisted parts.

    The work raises Violation at the first wrong byte.
    """

    def read_points(send: Send) -> None:
        right = refused = 0
        listed_points = set()
        try:
            with reading(path) as repository:
                with repository.catalog.view() as view:
                    listed = list(points(view))
                reader = Reader(repository)
                for point in listed:
                    number = point.manifest.point
                    listed_points.add(number)
                    disk = reader.disk(point.manifest.disks[0])
                    if disk.size != len(expected[number]):
                        raise Violation(f"point {number} has the wrong size")
                    for at in range(0, disk.size, _STEP):
                        try:
                            content = disk.read(at, _STEP)
                        except CbtfsError:
                            refused += 1
                            continue
                        if content != expected[number][at : at + _STEP]:
                            raise Violation(f"point {number} returns wrong bytes at {at}")
                        right += 1
        except CbtfsError as exc:
            send({"failed": type(exc).__name__})
        send({"right": right, "refused": refused, "unlisted": len(expected.keys() - listed_points)})

    return read_points


def bits(folder: Path, seed: int, count: int) -> CampaignResult:
    """Damage one spot at a time in packs, manifests, state files and the catalog."""
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
        result = run_child(read_all(victim, expected))
        label = f"number {number}, {damage.__name__} of {file.relative_to(victim)}"
        is_catalog = file.name == gate.DATA
        if result.code in _SIGNALS and is_catalog:
            ended += 1
        elif result.code:
            raise Violation(f"{label}: {result}")
        if is_catalog:
            _prove_repair(victim, expected, label)
        right += sum(result.values("right"))
        refused += sum(result.values("refused"))
        failed += len(result.values("failed"))
        shutil.rmtree(victim)
    expect_success(run_child(read_all(campaign.repository, expected)))
    note = (
        f"{right} reads correct, 0 wrong, {refused} refused, {failed} repositories refused, "
        f"{ended} processes ended by LMDB"
    )
    return CampaignResult("bits", count, "damages", len(expected), 0, 0, note)


def _prove_repair(path: Path, expected: Mapping[PointId, bytes], label: str) -> None:
    """Verify that a repair restores every point, whatever the damage of the catalog."""
    expect_success(run_child(repairing(path, lambda send: None)))
    result = expect_success(run_child(read_all(path, expected)))
    if result.values("refused") != [0] or result.values("unlisted") != [0]:
        raise Violation(f"{label}: not repaired: {result}")


def _choose(path: Path, rnd: random.Random) -> Path:
    """Return a random file of the repository; each kind has the same probability."""
    kinds = [
        [*path.glob("packs/*/*")],
        [file for file in path.glob("points/*") if not file.suffix],
        [*path.glob("points/*.state")],
        [path / "catalog" / "data.mdb"],
        [path / "catalog" / "data.mdb"],
    ]
    return rnd.choice(sorted(rnd.choice(kinds)))
