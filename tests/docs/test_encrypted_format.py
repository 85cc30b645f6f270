"""docs/format.md is complete for encrypted repositories, too."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from cbtfs.core.frame import Codec
from cbtfs.store.capture_keys import allow_capture_keys
from cbtfs.store.repository import writing
from tests.docs.test_format import image
from tests.encrypted import create_encrypted, encrypted_settings, write_key
from tests.make_points import BLOCK, add_point
from tests.roles import acting, role_of
from tests.store.folders import packs_at

READER = Path(__file__).parent / "independent_encrypted_reader.py"


def read_independently(path: Path, key: Path, words: list[str], target: Path) -> bytes:
    command = [sys.executable, str(READER), str(path), str(key), *words, str(target)]
    subprocess.run(command, check=True, cwd=READER.parent, capture_output=True)
    return target.read_bytes()


def test_an_independent_reader_reads_every_point(tmp_path: Path) -> None:
    path, key, target = tmp_path / "repo", write_key(tmp_path / "key"), tmp_path / "image"
    create_encrypted(path, encrypted_settings(BLOCK))
    first, second = image(1, 150, tail=77), bytes(4099 * BLOCK) + image(3, 1, tail=1)
    point = add_point(path, {"small": first, "high": second}, pack_bytes=64 * BLOCK)
    changed = first[: 9 * BLOCK] + bytes(BLOCK) + first[10 * BLOCK :]
    later = add_point(path, {"small": changed}, changed={"small": [9]})
    packs = packs_at(path / "packs")
    frames = [frame for pack in packs.ids() for frame in packs.frames(pack)[0]]

    assert {frame.codec for frame in frames} == set(Codec)
    assert len(packs.ids()) > 1
    assert read_independently(path, key, [point.point, "small"], target) == first
    assert read_independently(path, key, [point.point, "high"], target) == second
    assert read_independently(path, key, [later.point, "small"], target) == changed


def test_an_independent_reader_reads_packs_of_a_capture_key(tmp_path: Path) -> None:
    path, key, target = tmp_path / "repo", write_key(tmp_path / "key"), tmp_path / "image"
    master = create_encrypted(path, encrypted_settings(BLOCK))
    first, second = image(4, 150, tail=77), image(5, 70, tail=5)
    before = add_point(path, {"disk": first})
    with writing(path) as repository:
        allow_capture_keys(repository)
    with acting(role_of(master)):
        of_role = add_point(path, {"disk": second}, vm="role", pack_bytes=64 * BLOCK)
    of_reader = add_point(path, {"disk": second}, vm="reader")

    assert read_independently(path, key, [before.point, "disk"], target) == first
    assert read_independently(path, key, [of_role.point, "disk"], target) == second
    assert read_independently(path, key, [of_reader.point, "disk"], target) == second


def test_an_independent_reader_refuses_a_changed_byte(tmp_path: Path) -> None:
    path, key = tmp_path / "repo", write_key(tmp_path / "key")
    create_encrypted(path, encrypted_settings(BLOCK))
    manifest = add_point(path, {"disk": b"x" * 100})
    (pack,) = path.glob("packs/*/*")
    data = bytearray(pack.read_bytes())
    data[300] ^= 1
    pack.write_bytes(data)

    with pytest.raises(subprocess.CalledProcessError):
        read_independently(path, key, [manifest.point, "disk"], tmp_path / "image")


def test_the_independent_reader_is_short_and_independent() -> None:
    source = READER.read_text()

    assert len(source.splitlines()) <= 200
    assert not re.search(r"^\s*(from|import) (cbtfs|lmdb|tests)", source, re.MULTILINE)
