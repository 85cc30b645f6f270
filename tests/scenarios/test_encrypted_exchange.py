"""Frames, packs and files of encrypted repositories that are exchanged, and keys in files."""

import random
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from cbtfs.check.check import check
from cbtfs.cli.complete import answer
from cbtfs.cli.main import main
from cbtfs.core.frame import FOOTER_BYTES, Frame, Kind, decode_sealed_footer, encode_sealed_footer
from cbtfs.core.ids import PackId
from cbtfs.core.manifest import Manifest
from cbtfs.errors import CbtfsError
from cbtfs.store.encryption import ring
from cbtfs.store.encryption.credentials import KEY_FILE_VARIABLE, Credentials, use
from cbtfs.store.encryption.keys import FIRST_EPOCH, keys_of_masters
from cbtfs.store.encryption.slots import Master, file_slot, previous_epoch
from cbtfs.store.file_indexes import FileIndexes
from cbtfs.store.repository import NewKeys, create_repository, reading
from tests.encrypted import DIGEST_KEY, SECRET, create_encrypted, encrypted_settings, write_key
from tests.make_points import BLOCK, add_point, read_point

BLOCKS = 20


def image(seed: int) -> bytes:
    """Return random blocks, whose frames all have the same size."""
    return random.Random(seed).randbytes(BLOCKS * BLOCK)


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "repo"
    use(Credentials())
    ring.drop_all()


@pytest.fixture
def master(path: Path) -> Master:
    return create_encrypted(path, encrypted_settings(BLOCK))


def chunks(path: Path, pack: Path) -> list[Frame]:
    with reading(path) as repository:
        frames, error = repository.packs.frames(PackId(pack.name))
    assert error is None
    return [frame for frame in frames if frame.kind is Kind.CHUNK]


def rewrite(pack: Path, changes: dict[int, bytes]) -> None:
    """Change bytes of a pack, and make its checksums right again: anybody can do that."""
    data = bytearray(pack.read_bytes())
    for at, new in changes.items():
        data[at : at + len(new)] = new
    foot = decode_sealed_footer(bytes(data[-FOOTER_BYTES:]), len(data))
    trailer = bytes(data[foot.trailer_offset : -FOOTER_BYTES])
    crc = zlib.crc32(data[:-FOOTER_BYTES])
    foot = foot._replace(trailer_crc=zlib.crc32(trailer), content_crc=crc)
    data[-FOOTER_BYTES:] = encode_sealed_footer(foot)
    pack.write_bytes(data)


def refused(path: Path, point: Manifest, expected: bytes) -> bool:
    """Whether a point cannot be read; else its bytes are right."""
    try:
        assert read_point(path, point) == {"disk": expected}
    except CbtfsError:
        return True
    return False


def test_frames_are_not_exchanged(path: Path, master: Master) -> None:
    first = add_point(path, {"disk": image(1)})
    (pack,) = path.glob("packs/*/*")
    second = add_point(path, {"disk": image(2)}, vm="other")
    (other,) = {*path.glob("packs/*/*")} - {pack}
    one, two = chunks(path, pack)[:2]
    strange = chunks(path, other)[0]
    before, theirs = pack.read_bytes(), other.read_bytes()

    def frame(data: bytes, found: Frame) -> bytes:
        return data[found.offset : found.end]

    for changes in (
        {one.offset: frame(before, two), two.offset: frame(before, one)},  # Within a pack.
        {one.offset: frame(theirs, strange)},  # Between packs, at the same offset.
        {one.payload_offset: before[two.payload_offset : two.payload_offset + two.stored]},
    ):
        rewrite(pack, changes)
        assert refused(path, first, image(1))
        assert not refused(path, second, image(2))
        assert check(path, read_data=True).problems
        pack.write_bytes(before)
    assert not refused(path, first, image(1))
    assert check(path, read_data=True).problems == []


def test_repositories_with_one_master_key_exchange_nothing(
    path: Path, master: Master, tmp_path: Path
) -> None:
    """The id of the repository is part of every key and tag."""
    point = add_point(path, {"disk": image(1)})
    settings, other = encrypted_settings(BLOCK), tmp_path / "other"
    same = Master(settings.id, FIRST_EPOCH, master.key)
    ring.hold(keys_of_masters(same.repository, {FIRST_EPOCH: same.key}, DIGEST_KEY))
    keys = NewKeys(previous_epoch(same, DIGEST_KEY), [file_slot(same, "test", SECRET)])
    create_repository(other, settings, keys)
    theirs = add_point(other, {"disk": image(1)})

    for file in (path / "points" / point.point, path / "points" / f"{point.point}.state"):
        shutil.copy(file, other / "points" / file.name)
    for pack in path.glob("packs/??/*"):
        target = other / "packs" / pack.name[:2] / pack.name
        target.parent.mkdir(exist_ok=True)
        shutil.copy(pack, target)
    kinds = {problem.kind for problem in check(other, read_data=True).problems}

    assert {"manifest", "trailer"} <= kinds
    assert not refused(other, theirs, image(1))


def test_no_key_and_no_index_is_in_a_file(path: Path, master: Master) -> None:
    """Neither raw nor in hex, in local state either; records and indexes are encrypted."""
    point = add_point(path, {"disk": image(1)})
    assert main(["--repo", str(path), "check", "--read-data-subset=1/2"]) == 0
    with FileIndexes(path) as indexes:
        indexes.put(point.point, b"a file named MARKER" * 100)
    (keys,) = (held for held in ring.held() if held.repository == master.repository)
    secrets = [master.key, keys.digest, keys.of(FIRST_EPOCH).meta, SECRET]
    for pack in path.glob("packs/??/*"):
        cipher = keys.pack(PackId(pack.name), FIRST_EPOCH, pack.read_bytes()[32:112])
        assert cipher.chunk_key is not None
        secrets += [cipher.chunk_key[32:], cipher.native[32:64]]

    for file in (file for file in path.rglob("*") if file.is_file()):
        data = file.read_bytes()
        assert b"MARKER" not in data
        for secret in secrets:
            assert secret not in data, file
            assert secret.hex().encode() not in data, file
    for name in ("verified", f"indexes/{point.point}"):
        assert (path / name).read_bytes().startswith(b"CBTFSENC")
    with FileIndexes(path) as indexes:
        assert indexes.ids() == {point.point}


def test_names_are_completed_with_a_key_file_only(
    path: Path, master: Master, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_point(path, {"disk": b""}, vm="web01")
    monkeypatch.delenv(KEY_FILE_VARIABLE, raising=False)

    def offered() -> str | None:
        ring.drop_all()
        variables = {"_CBTFS_COMPLETE": "complete_fish", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
        line = {"_TYPER_COMPLETE_ARGS": "cbtfs list ", "CBTFS_REPO": str(path)}
        return answer({**variables, **line, "HOME": str(tmp_path)})

    assert not offered()
    key = write_key(tmp_path / "key")
    monkeypatch.setenv(KEY_FILE_VARIABLE, str(key))
    assert (offered() or "").split() == ["web01"]
    monkeypatch.delenv(KEY_FILE_VARIABLE)
    config = tmp_path / ".config" / "cbtfs" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text(f'repo = "{path}"\n[keys]\nkey-file = "{key}"\n')
    config.chmod(0o600)
    assert (offered() or "").split() == ["web01"]
