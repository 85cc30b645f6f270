"""docs/format.md is complete: a reader written from that page alone reads every point."""

import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cbtfs.core.frame import Codec, Frame
from cbtfs.core.manifest import Manifest
from tests.make_points import BLOCK, add_point, new_repository
from tests.store.folders import packs_at

HERE = Path(__file__).parent
READER = HERE / "independent_reader.py"

Images = dict[str, bytes]
History = list[tuple[Manifest, Images]]


def image(seed: int, blocks: int, tail: int = 0) -> bytes:
    """Return blocks of zeros, text and noise at random, and *tail* more bytes."""
    rng = random.Random(seed)
    kinds = [bytes(BLOCK), b"text%d " % seed * 800, rng.randbytes(BLOCK)]
    parts = [kinds[rng.randrange(3)][:BLOCK].ljust(BLOCK, b".") for _ in range(blocks)]
    return b"".join(parts) + rng.randbytes(tail)


def write_history(path: Path) -> History:
    """Write points of several disks: sparse, of odd sizes, growing and shrinking."""
    new_repository(path)
    small, large = image(1, 40, tail=77), image(2, 150)
    high = bytes(4099 * BLOCK) + image(3, 1, tail=1)
    history = []

    def add(images: Images, changed: dict[str, list[int]] | None) -> None:
        manifest = add_point(path, images, changed=changed, pack_bytes=64 * BLOCK)
        history.append((manifest, images))

    add({"small": small, "large": large, "high": high, "none": b"", "zero": bytes(999)}, None)
    changed = bytearray(large)
    changed[70 * BLOCK : 72 * BLOCK] = b"new" * (2 * BLOCK // 3) + b".."
    changed[9 * BLOCK : 10 * BLOCK] = bytes(BLOCK)
    add({"small": small, "large": bytes(changed)}, {"small": [], "large": [9, 70, 71]})
    grown = bytes(changed) + bytes(4000 * BLOCK) + b"end"
    add({"large": grown, "small": small + bytes(BLOCK)}, {"large": [], "small": []})
    add({"large": grown[: 100 * BLOCK + 5], "small": small[:3]}, {"large": [], "small": [0]})
    return history


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, History]:
    path = tmp_path_factory.mktemp("format") / "repo"
    return path, write_history(path)


def read_independently(path: Path, manifest: Manifest, label: str, target: Path) -> bytes:
    command = [sys.executable, str(READER), str(path), manifest.point, label, str(target)]
    subprocess.run(command, check=True, cwd=HERE)
    return target.read_bytes()


@pytest.mark.parametrize("number", range(4))
def test_an_independent_reader_reads_every_point(
    written: tuple[Path, History], number: int, tmp_path: Path
) -> None:
    path, history = written
    manifest, images = history[number]

    for label, content in images.items():
        assert read_independently(path, manifest, label, tmp_path / "image") == content


def test_an_independent_reader_needs_no_trailers(tmp_path: Path) -> None:
    path = tmp_path / "repo"
    history = write_history(path)
    for pack in path.glob("packs/*/*"):
        with pack.open("r+b") as file:
            file.truncate(pack.stat().st_size - 1)

    manifest, images = history[2]
    assert read_independently(path, manifest, "large", tmp_path / "image") == images["large"]


def test_an_independent_reader_refuses_a_changed_byte(tmp_path: Path) -> None:
    path = new_repository(tmp_path / "repo")
    manifest = add_point(path, {"disk": b"x" * 100})
    (pack,) = path.glob("packs/*/*")
    data = bytearray(pack.read_bytes())
    data[150] ^= 1
    pack.write_bytes(data)

    with pytest.raises(subprocess.CalledProcessError):
        read_independently(path, manifest, "disk", tmp_path / "image")


def frames_of(path: Path) -> list[Frame]:
    packs = packs_at(path / "packs")
    return [frame for pack in packs.ids() for frame in packs.frames(pack)[0]]


def test_the_repository_has_every_codec_and_level(written: tuple[Path, History]) -> None:
    frames = frames_of(written[0])

    assert {frame.codec for frame in frames} == set(Codec)
    assert {frame.level for frame in frames} == {0, 1, 2, 3}
    assert len([*written[0].glob("packs/*/*")]) > 1


def test_the_independent_reader_is_short_and_independent() -> None:
    source = READER.read_text()

    assert len(source.splitlines()) < 150
    assert not re.search(r"^\s*(from|import) (cbtfs|lmdb|tests)", source, re.MULTILINE)
