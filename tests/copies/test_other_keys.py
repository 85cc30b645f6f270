"""Copies between repositories with different keys of digests: encrypted, and not."""

import random
from pathlib import Path

import pytest

from cbtfs.check.check import check
from cbtfs.copies.points import CopyResult, CopyStatus, copy_points
from cbtfs.core.manifest import Manifest, PointState
from cbtfs.listing import points
from cbtfs.store.digest import Digester
from cbtfs.store.encryption import ring
from cbtfs.store.encryption.keys import keys_of_masters
from cbtfs.store.encryption.slots import file_slot, new_master, previous_epoch
from cbtfs.store.repository import NewKeys, create_repository, reading, writing
from tests.encrypted import SECRET, encrypted_settings
from tests.make_points import BLOCK, add_point, new_repository, read_point


def encrypted(path: Path, digest: bytes) -> Path:
    """Create an encrypted repository with the key *digest*."""
    settings = encrypted_settings(BLOCK)
    master = new_master(settings.id, 1)
    ring.hold(keys_of_masters(settings.id, {1: master.key}, digest))
    keys = NewKeys(previous_epoch(master, digest), [file_slot(master, "test", SECRET)])
    create_repository(path, settings, keys)
    return path


def image(seed: int, blocks: int = 200) -> bytes:
    rng = random.Random(seed)
    parts = [rng.randbytes(BLOCK), b"text" * (BLOCK // 4), bytes(BLOCK)]
    return b"".join(parts[n % 3] if n % 7 else rng.randbytes(BLOCK) for n in range(blocks))


def copy(source: Path, target: Path) -> CopyResult:
    with reading(source) as ours, writing(target) as theirs:
        with ours.catalog.view() as view:
            chosen = list(points(view))
        return copy_points(ours, theirs, chosen)


def manifest_of(path: Path, point: Manifest) -> Manifest:
    with reading(path) as repository:
        return repository.points.read_manifest(point.point)


@pytest.fixture
def plain(tmp_path: Path) -> tuple[Path, list[Manifest], list[bytes]]:
    """A repository with three points, of which the second changes one block."""
    path = new_repository(tmp_path / "plain")
    first = image(1)
    second = first[: 5 * BLOCK] + b"new!" * (BLOCK // 4) + first[6 * BLOCK :]
    made = [
        add_point(path, {"disk": first, "empty": b""}),
        add_point(path, {"disk": second, "empty": b""}, changed={"disk": [5]}),
        add_point(path, {"disk": image(2, 70)}, vm="other"),
    ]
    return path, made, [first, second, image(2, 70)]


def test_a_repository_becomes_encrypted_and_plain_again(
    plain: tuple[Path, list[Manifest], list[bytes]], tmp_path: Path
) -> None:
    path, made, images = plain
    secret = encrypted(tmp_path / "secret", bytes(range(32)))
    other = encrypted(tmp_path / "other", bytes(range(1, 33)))
    again = new_repository(tmp_path / "again")
    for source, target in ((path, secret), (secret, other), (other, again)):
        result = copy(source, target)

        assert {c.status for c in result.points} == {CopyStatus.COPIED}
        assert check(target, read_data=True).problems == []
        for point, content in zip(made, images, strict=True):
            there = manifest_of(target, point)
            assert there.point == point.point
            assert read_point(target, there)["disk"] == content
    assert [manifest_of(again, point) for point in made] == made
    assert manifest_of(secret, made[0]).disks[0].root != made[0].disks[0].root


def test_states_travel_to_an_encrypted_repository(
    plain: tuple[Path, list[Manifest], list[bytes]], tmp_path: Path
) -> None:
    path, (first, second, _), _ = plain
    disk = second.disks[0].id
    states = [
        PointState(first.point, is_protected=True, tags=("a", "b")),
        PointState(second.point, suspect="a list lied", suspect_disks=(disk,)),
    ]
    with writing(path) as repository:
        repository.put_states(states)
    secret = encrypted(tmp_path / "secret", bytes(range(32)))

    copy(path, secret)

    with reading(secret) as repository:
        found = [repository.points.load_state(state.point)[0] for state in states]
    assert found[0] == states[0]
    assert found[1].suspects(disk) == "a list lied"


def test_a_second_copy_does_nothing(
    plain: tuple[Path, list[Manifest], list[bytes]], tmp_path: Path
) -> None:
    path, *_ = plain
    secret = encrypted(tmp_path / "secret", bytes(range(32)))
    first = copy(path, secret)
    packs = sorted(secret.glob("packs/*/*"))

    second = copy(path, secret)

    assert first.chunks > 0
    assert {c.status for c in second.points} == {CopyStatus.PRESENT}
    assert (second.chunks, second.stored_bytes) == (0, 0)
    assert sorted(secret.glob("packs/*/*")) == packs


def test_equal_chunks_are_stored_once(
    plain: tuple[Path, list[Manifest], list[bytes]], tmp_path: Path
) -> None:
    path, _, images = plain
    secret = encrypted(tmp_path / "secret", bytes(range(32)))

    result = copy(path, secret)

    blocks = {i[at : at + BLOCK] for i in images for at in range(0, len(i), BLOCK)}
    assert result.chunks == len(blocks - {bytes(BLOCK)})
    with reading(secret) as repository:
        assert isinstance(repository.digester, Digester)
        assert repository.digester.key == bytes(range(32))


def test_a_related_repository_moves_no_chunk_of_an_unchanged_vm(tmp_path: Path) -> None:
    first, second = (encrypted(tmp_path / name, bytes(range(32))) for name in ("a", "b"))
    add_point(first, {"disk": image(1)})
    moved = copy(first, second)
    add_point(first, {"disk": image(1)}, changed={"disk": []})

    again = copy(first, second)

    assert moved.chunks > 0
    assert again.chunks == 0
    assert [c.status for c in again.points] == [CopyStatus.PRESENT, CopyStatus.COPIED]
