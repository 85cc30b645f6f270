"""Encrypted repositories: nothing is readable without the key, and no change goes unnoticed.

CBTFS_FLIPS sets the number of flipped bits.
"""

import os
import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from cbtfs.check.check import check
from cbtfs.check.outer import check_outer
from cbtfs.core.manifest import Manifest, unknown_state
from cbtfs.core.pin import Pin, PinId
from cbtfs.core.sealed import seal
from cbtfs.core.settings import encode_settings
from cbtfs.errors import CbtfsError, DataCorrupt, KeyUnavailable, UsageError
from cbtfs.prune.prune import prune
from cbtfs.prune.select import PruneLimits
from cbtfs.reader import Reader
from cbtfs.repair import repair
from cbtfs.stats.measure import stats
from cbtfs.store.backend.layout import open_points
from cbtfs.store.encryption import ring
from cbtfs.store.encryption.administer import add_slot
from cbtfs.store.encryption.credentials import Credentials, use
from cbtfs.store.encryption.files import verify_file
from cbtfs.store.encryption.known import forget_all, known_of
from cbtfs.store.encryption.rotate import rotate
from cbtfs.store.encryption.slots import file_slot
from cbtfs.store.identity import new_id
from cbtfs.store.pins import load_pins, put_pin
from cbtfs.store.points import PointFolder
from cbtfs.store.quarantine import load_quarantine
from cbtfs.store.repository import reading, writing
from cbtfs.store.settings import load_settings
from tests.encrypted import create_encrypted, encrypted_settings, write_key
from tests.make_points import BLOCK, add_point, read_point

FLIPS: Final = int(os.environ.get("CBTFS_FLIPS", "300"))
MARKERS: Final = 2000
NEVER_SECRET: Final = ("catalog", "locks", "reserve")
"""Local state, which may hold names (docs/format.md)."""


def noise(seed: int, blocks: int) -> bytes:
    """Return raw and compressible blocks, and some of zeros."""
    rng = random.Random(seed)
    text = b"".join(b"line %d of %d\n" % (n, seed) for n in range(BLOCK // 8))[:BLOCK]
    kinds = [rng.randbytes(BLOCK), text, bytes(BLOCK)]
    parts = [kinds[n % 3] if n else rng.randbytes(BLOCK) for n in range(blocks)]
    return b"".join(part[:-4] + n.to_bytes(4, "big") for n, part in enumerate(parts))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    create_encrypted(tmp_path / "repo", encrypted_settings(BLOCK))
    return tmp_path / "repo"


@pytest.fixture
def written(path: Path) -> tuple[Path, Manifest, Manifest]:
    """Two points, a pin and a state with a tag."""
    first = add_point(path, {"disk": noise(1, 90)})
    second = add_point(path, {"disk": noise(2, 90)})
    with reading(path) as repository:
        pin = Pin(PinId(new_id()), first.point, "name", "host", "/dir", "2026-01-01T00:00:00Z")
        put_pin(path, repository.points, pin)
    return path, first, second


def sealed_files(path: Path) -> list[Path]:
    files = [file for file in path.rglob("*") if file.is_file() and file.name != "marker.json"]
    secret = [f for f in files if f.relative_to(path).parts[0] not in (*NEVER_SECRET, "keys")]
    return sorted(file for file in secret if file.name != "repository.json")


def test_every_flipped_bit_is_refused_or_harmless(
    written: tuple[Path, Manifest, Manifest], tmp_path: Path
) -> None:
    """Right bytes or an error, from a catalog that is rebuilt after the flip as well."""
    path, *points = written
    expected = {point.point: noise(number + 1, 90) for number, point in enumerate(points)}
    rng, files, refused = random.Random(4), sealed_files(path), 0

    for number in range(FLIPS):
        file = rng.choice(files)
        data = file.read_bytes()
        at = rng.randrange(len(data))
        file.write_bytes(data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :])
        copy = path
        if number % 20 == 0:  # Everything is derived from the flipped file.
            copy = tmp_path / f"copy{number}"
            shutil.copytree(path, copy)
            shutil.rmtree(copy / "catalog")
        for point in points:
            try:
                assert read_point(copy, point) == {"disk": expected[point.point]}
            except CbtfsError:
                refused += 1
        assert check_outer(copy, lambda _: lambda _: None).problems
        if copy != path:
            shutil.rmtree(copy)
        file.write_bytes(data)

    assert refused > FLIPS // 10
    assert check(path, read_data=True).problems == []


def test_exchanged_files_are_refused(written: tuple[Path, Manifest, Manifest]) -> None:
    path, first, second = written
    points = path / "points"
    for suffix in ("", ".state"):
        one, two = points / f"{first.point}{suffix}", points / f"{second.point}{suffix}"
        before = one.read_bytes()
        one.write_bytes(two.read_bytes())
        kinds = {problem.kind for problem in check(path, read_data=False).problems}
        one.write_bytes(before)

        assert kinds == {"manifest" if not suffix else "state"}


def test_a_pack_under_another_name_is_refused(written: tuple[Path, Manifest, Manifest]) -> None:
    path, *_ = written
    one, two = sorted(path.glob("packs/*/*"))[:2]
    (swapped := one.read_bytes()), one.write_bytes(two.read_bytes())
    two.write_bytes(swapped)

    problems = check(path, read_data=True).problems

    assert {problem.kind for problem in problems} >= {"trailer"}
    with reading(path) as repository:
        disk = Reader(repository).disk(written[1].disks[0])
        with pytest.raises(CbtfsError):
            disk.read(0, 90 * BLOCK)


def test_files_and_packs_of_another_repository_with_the_same_keys_are_refused(
    written: tuple[Path, Manifest, Manifest], tmp_path: Path
) -> None:
    """A copy of keys/ gives another repository the same secrets, but not the same keys."""
    path, first, _ = written
    other = tmp_path / "other"
    create_encrypted(other, encrypted_settings(BLOCK))
    add_point(other, {"disk": noise(1, 3)})
    shutil.copy(path / "points" / first.point, other / "points" / first.point)
    (pack,) = {file for file in path.glob("packs/*/*") if len(file.name) == 32} & {
        max(path.glob("packs/*/*"), key=lambda file: file.stat().st_size)
    }
    (other / "packs" / pack.name[:2]).mkdir(exist_ok=True)
    shutil.copy(pack, other / "packs" / pack.name[:2] / pack.name)

    kinds = {problem.kind for problem in check(other, read_data=True).problems}

    assert {"manifest", "trailer"} <= kinds


def markers() -> Iterator[bytes]:
    for number in range(MARKERS):
        yield b"MARK%08dKRAM" % number


def test_no_planted_marker_is_found(path: Path) -> None:
    """Names and change IDs are only in the local catalog, and content is nowhere."""
    planted = list(markers())
    content, labels, tokens = planted[:1000], planted[1000:1500], planted[1500:]
    blocks = (mark + b"." * (BLOCK - 2 * len(mark)) + mark for mark in content)
    images = {label.decode(): b"" for label in labels}
    images["data"] = b"".join(blocks)

    def change(manifest: Manifest) -> Manifest:
        ids = [*(token.decode() for token in tokens), None]
        disks = [
            replace(disk, change_id=token) for disk, token in zip(manifest.disks, ids, strict=True)
        ]
        return replace(manifest, disks=tuple(disks))

    point = add_point(path, images, change=change, vm="MARKvmKRAM")
    with writing(path) as repository:
        (state, _) = repository.points.load_state(point.point)
        repository.put_states([replace(state, tags=("MARKtagKRAM",))])
    files = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}

    for file, data in files.items():
        is_local = file.relative_to(path).parts[0] in NEVER_SECRET
        wanted = content if is_local else [*planted, b"KRAM", b"MARK"]
        assert not any(mark in data for mark in wanted), file
    assert any(b"MARKvmKRAM" in data for data in files.values())  # in the catalog
    shutil.rmtree(path / "catalog")
    repair(path)
    assert read_point(path, point)["data"] == images["data"]


def test_modes_keep_local_state_from_other_users(written: tuple[Path, Manifest, Manifest]) -> None:
    path, *_ = written

    for file in [path, *path.rglob("*")]:
        assert file.stat().st_mode & 0o077 == 0, file


def test_records_are_encrypted_and_readable(
    written: tuple[Path, Manifest, Manifest],
) -> None:
    path, *_ = written
    pack = max(path.glob("packs/*/*"), key=lambda file: file.stat().st_size)
    data = bytearray(pack.read_bytes())
    data[5000] ^= 1
    pack.write_bytes(data)
    report = check(path, read_data=True)
    with writing(path) as repository:
        repository.add_to_quarantine(report.corrupt)

    assert load_quarantine(path) == frozenset(report.corrupt)
    assert (path / "quarantine").read_bytes().startswith(b"CBTFSENC")
    assert [pin.name for pin in load_pins(path)] == ["name"]


def test_a_plain_file_in_an_encrypted_repository_is_refused(
    written: tuple[Path, Manifest, Manifest],
) -> None:
    path, first, _ = written
    (path / "points" / first.point).write_bytes(seal({"point": first.point}))

    with reading(path) as repository, pytest.raises(DataCorrupt, match="not encrypted"):
        repository.points.load_manifest(first.point)


def test_settings_that_deny_the_encryption_are_refused(
    written: tuple[Path, Manifest, Manifest],
) -> None:
    """Else an attacker could make the next run store plain text."""
    path, *_ = written
    denied = replace(load_settings(path), required=("pins",))
    (path / "repository.json").write_bytes(encode_settings(denied))

    with pytest.raises(DataCorrupt, match="key slots"), writing(path):
        pass


def test_nothing_is_read_without_a_key(
    written: tuple[Path, Manifest, Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, *_ = written
    monkeypatch.delenv("CBTFS_KEY_FILE", raising=False)
    held = ring.held()
    ring.drop_all()
    try:
        with pytest.raises(KeyUnavailable, match="no key was given"), reading(path):
            pass
        with pytest.raises(KeyUnavailable):
            PointFolder(open_points(path))
        use(Credentials(key_files=(write_key(tmp_path / "key"),)))
        with reading(path) as repository:
            assert len(repository.points.ids()) == 2
    finally:
        use(Credentials())
        for keys in held:
            ring.hold(keys)


def forgotten_by_this_process() -> None:
    for keys in ring.held():
        known_of(keys.repository).save()
    forget_all()


def test_an_older_state_that_was_put_back_is_noticed(
    written: tuple[Path, Manifest, Manifest],
) -> None:
    path, first, _ = written
    state = path / "points" / f"{first.point}.state"
    older = state.read_bytes()
    with writing(path) as repository:
        (now, _) = repository.points.load_state(first.point)
        repository.put_states([replace(now, is_protected=True)])
    forgotten_by_this_process()
    state.write_bytes(older)

    problems = check(path, read_data=False).problems

    assert [problem.kind for problem in problems] == ["state"]
    with reading(path) as repository:
        assert repository.points.load_state(first.point)[0] == unknown_state(first.point)


def test_a_repository_that_was_put_back_is_noticed(
    written: tuple[Path, Manifest, Manifest], tmp_path: Path
) -> None:
    path, _, second = written
    older = tmp_path / "older"
    shutil.copytree(path, older)
    third = add_point(path, {"disk": noise(3, 5)})
    forgotten_by_this_process()
    shutil.rmtree(path)
    shutil.copytree(older, path)

    with pytest.raises(DataCorrupt, match=f"older than it was: point {third.point}"), reading(path):
        pass
    with pytest.raises(DataCorrupt, match="older than it was"), writing(path):
        pass
    assert second.order < third.order


def test_points_that_this_client_removes_are_not_missed(
    written: tuple[Path, Manifest, Manifest],
) -> None:
    path, _, second = written
    with writing(path) as repository:
        repository.forget([second.point])
        repository.remove_forgotten([second.point])
    forgotten_by_this_process()

    with reading(path) as repository:
        assert len(repository.points.ids()) == 1


def test_a_repository_that_was_encrypted_is_not_used_unencrypted(
    written: tuple[Path, Manifest, Manifest],
) -> None:
    """Without keys/ and its features, it looks like one that never was."""
    path, *_ = written
    denied = replace(load_settings(path), required=())
    (path / "repository.json").write_bytes(encode_settings(denied))
    shutil.rmtree(path / "keys")

    with pytest.raises(DataCorrupt, match="was encrypted when it was last used"), writing(path):
        pass


def test_a_rotation_and_a_prune_leave_nothing_of_the_old_key(
    written: tuple[Path, Manifest, Manifest], tmp_path: Path
) -> None:
    path, first, second = written
    settings, held = load_settings(path), ring.held()
    old = {keys.repository: keys for keys in held}[settings.id]
    use(Credentials(key_files=(write_key(tmp_path / "key"),)))
    try:
        with writing(path):
            rotation = rotate(path, settings.id, drops_others=False)
        third = add_point(path, {"disk": noise(3, 90)})
        assert read_point(path, first)["disk"] == noise(1, 90)
        with reading(path) as repository:
            before = stats(repository)
        with writing(path) as repository:
            limited = prune(repository, PruneLimits(repack_bytes=0, rekeys=True))
        with writing(path) as repository:
            result = prune(repository, PruneLimits(rekeys=True))
        ring.drop_all()
        repair(path)
    finally:
        use(Credentials())

    with reading(path) as repository:
        after = stats(repository)
    assert (rotation.epoch, len(rotation.slots), rotation.removed) == (2, 1, ())
    assert (before.key_epoch, before.old_packs) == (2, 2)
    assert 0 < before.old_pack_bytes < before.pack_bytes
    assert (after.key_epoch, after.old_packs, after.old_pack_bytes) == (2, 0, 0)
    assert (limited.old_packs, result.old_packs) == (2, 0)
    assert limited.rekeyed_files >= 4
    for number, point in enumerate((first, second, third)):
        assert read_point(path, point)["disk"] == noise(number + 1, 90)
    assert check(path, read_data=True).problems == []
    assert load_pins(path)[0].name == "name"
    assert {
        verify_file(f.read_bytes())
        for f in sealed_files(path)
        if len(f.name) != 32 or (f.parent.name in ("points", "overlays"))
    } == {2}
    ring.hold(old)
    with pytest.raises(KeyUnavailable, match="lacks key epoch 2"), reading(path) as repository:
        repository.points.load_manifest(first.point)
    for keys in held:
        ring.hold(keys)


def test_a_rotation_refuses_to_drop_slots_silently(path: Path, tmp_path: Path) -> None:
    settings = load_settings(path)
    use(Credentials(key_files=(write_key(tmp_path / "key"),)))
    try:
        add_slot(path, settings.id, lambda master: file_slot(master, "other", bytes(32)))
        before = sorted((path / "keys").iterdir())
        with pytest.raises(UsageError, match="other"):
            rotate(path, settings.id, drops_others=False)
        assert sorted((path / "keys").iterdir()) == before
        rotation = rotate(path, settings.id, drops_others=True)
    finally:
        use(Credentials())

    assert [slot.label for slot in rotation.removed] == ["other"]
    assert [slot.epoch for slot in ring.load_slots(path, settings.id)] == [2]
