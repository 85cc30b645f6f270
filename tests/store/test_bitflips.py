"""Flipped bits anywhere in a repository: the right bytes or a refusal, never a wrong byte."""

import os
import random
import shutil
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from cbtfs import listing
from cbtfs.core.manifest import Manifest
from cbtfs.errors import CbtfsError
from cbtfs.reader import Disk, Reader
from cbtfs.store.repository import Repository, reading, writing
from tests.make_points import BLOCK, add_point, new_repository

FLIPS = 120
CATALOG_FLIPS = 50
SMALL_READ = 3000

Points = list[tuple[Manifest, bytes]]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Points]:
    """Return a small repository: raw and compressed chunks, three points, several packs."""
    rng = random.Random(7)
    path = new_repository(tmp_path_factory.mktemp("flips") / "repo")
    disk = bytearray(70 * BLOCK + 9)
    points: Points = []
    for turn in range(3):
        for block in rng.sample(range(70), 4):
            content = rng.randbytes(BLOCK) if block % 2 else b"%04d" % turn * (BLOCK // 4)
            disk[block * BLOCK : (block + 1) * BLOCK] = content
        manifest = add_point(path, {"disk": bytes(disk)}, pack_bytes=4 * BLOCK)
        points.append((manifest, bytes(disk)))
    return path, points


def files_of(path: Path, *patterns: str) -> list[Path]:
    return sorted(p for pattern in patterns for p in path.glob(pattern) if p.is_file())


def flip(path: Path, rng: random.Random) -> str:
    """Flip one bit of a file; return a description for the message of a failing test."""
    at = rng.randrange(path.stat().st_size * 8)
    with path.open("r+b") as file:
        file.seek(at // 8)
        byte = file.read(1)[0]
        file.seek(at // 8)
        file.write(bytes([byte ^ 1 << at % 8]))
    return f"bit {at} of {path.name}"


def attempt(look: Callable[[], bool]) -> bool:
    """Return whether *look* returned the right data or was refused."""
    try:
        return look()
    except CbtfsError:
        return True


def is_honest(path: Path, points: Points) -> bool:
    """Return whether a reader gets only the right data or refusals."""

    try:
        with reading(path) as repository:
            reader = Reader(repository)
            for manifest, image in points:
                disk = reader.disk(manifest.disks[0])
                for length in (SMALL_READ, len(image)):
                    for at in range(0, len(image), length + 13 * BLOCK):
                        if not attempt(partial(reads_right, disk, at, length, image)):
                            return False
            return attempt(partial(lists_right, repository, points))
    except CbtfsError:
        return True


def reads_right(disk: Disk, offset: int, length: int, image: bytes) -> bool:
    return bytes(disk.read(offset, length)) == image[offset : offset + length]


def lists_right(repository: Repository, points: Points) -> bool:
    known = [manifest for manifest, _ in points]
    with repository.catalog.view() as view:
        return all(point.manifest in known for point in listing.points(view))


def settle(path: Path) -> None:
    """Open the repository for writing, like the next ingest."""
    with suppress(CbtfsError), writing(path):
        pass


def settles_honestly(path: Path, points: Points) -> bool:
    settle(path)
    return is_honest(path, points)


@pytest.mark.parametrize("is_rebuilt", [False, True], ids=["kept catalog", "rebuilt catalog"])
def test_a_flipped_bit_in_a_file_never_makes_a_wrong_byte(
    original: tuple[Path, Points], tmp_path: Path, is_rebuilt: bool
) -> None:
    path, points = original
    rng = random.Random(16)
    files = files_of(path, "packs/*/*", "points/*", "repository.json")
    for number in range(FLIPS // 2):
        copy = tmp_path / str(number)
        shutil.copytree(path, copy)
        done = flip(copy / rng.choice(files).relative_to(path), rng)
        if is_rebuilt:
            shutil.rmtree(copy / "catalog")

        assert is_honest(copy, points), done
        assert settles_honestly(copy, points), done
        shutil.rmtree(copy)


def in_child(work: Callable[[], bool]) -> str:
    """Return how a child that runs *work* ends: "right", "wrong", "failed", or "killed"."""
    child = os.fork()
    if child == 0:
        outcome = 2
        try:
            outcome = 0 if work() else 1
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(outcome)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return "killed"
    return ["right", "wrong", "failed"][os.WEXITSTATUS(status)]


def test_a_flipped_bit_in_the_catalog_never_makes_a_wrong_byte(
    original: tuple[Path, Points], tmp_path: Path
) -> None:
    path, points = original
    rng = random.Random(17)
    for number in range(CATALOG_FLIPS):
        copy = tmp_path / str(number)
        shutil.copytree(path, copy)
        done = flip(copy / "catalog" / "data.mdb", rng)

        assert in_child(partial(is_honest, copy, points)) in ("right", "killed"), done
        assert in_child(partial(settles_honestly, copy, points)) in ("right", "killed"), done
        shutil.rmtree(copy)
