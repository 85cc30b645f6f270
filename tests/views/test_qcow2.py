"""Images with external data, as QEMU reads them: sizes, holes, bitmaps."""

import json
import random
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from cbtfs.core.extent import Extent, clip
from cbtfs.views.qcow2 import Bitmap, ExtentsIn, Qcow2Image, bitmap_granularity
from cbtfs.views.vmdk import encode_vmdk

KIB = 1 << 10
TIB = 1 << 40


def within(extents: Sequence[Extent]) -> ExtentsIn:
    def clipped(area: Extent) -> Iterator[Extent]:
        return clip(extents, area.start, area.end)

    return clipped


def write(path: Path, image: Qcow2Image) -> None:
    """Write an image; its zeros become holes."""
    with path.open("wb") as file:
        file.truncate(image.size)
        for offset in range(0, image.size, 1 << 20):
            part = image.read(offset, 1 << 20)
            if any(part):
                file.seek(offset)
                file.write(part)


def qemu_img(*command: str | Path) -> str:
    done = subprocess.run(["qemu-img", *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def random_extents(source: random.Random, size: int, unit: int) -> list[Extent]:
    starts = sorted(source.sample(range(-(-size // unit)), min(9, -(-size // unit))))
    return list(clip([Extent(start * unit, unit) for start in starts], 0, size))


@pytest.mark.parametrize("size", [0, 1, 512, 64 * KIB, 3 * 64 * KIB + 7, (1 << 30) + 513])
def test_qemu_finds_no_error_and_the_same_bytes(tmp_path: Path, size: int) -> None:
    source = random.Random(size)
    raw, path = tmp_path / "raw", tmp_path / "image"
    extents = random_extents(source, size, 64 * KIB)
    with raw.open("wb") as file:
        file.truncate(size)
        for extent in extents:
            file.seek(extent.start)
            file.write(source.randbytes(extent.length))
    bitmap = Bitmap("since-x", 4 * KIB, within(random_extents(source, size, 4 * KIB)))
    write(path, Qcow2Image(size, bytes(raw), within(extents), bitmap))

    qemu_img("check", path)
    qemu_img("compare", "-f", "raw", "-F", "qcow2", raw, path)
    info = json.loads(qemu_img("info", "--output=json", path))
    assert info["virtual-size"] == -(-size // 512) * 512
    assert info["format-specific"]["data"]["data-file"] == str(raw)
    names = [bitmap["name"] for bitmap in info["format-specific"]["data"].get("bitmaps", [])]
    assert names == (["since-x"] if size else [])  # QEMU has no bitmap of an empty disk


def test_any_part_of_an_image_is_the_part_of_the_whole() -> None:
    source = random.Random(3)
    size = (1 << 30) + 5
    extents = random_extents(source, size, 4 * KIB)
    image = Qcow2Image(size, b"/disk.raw", within(extents), Bitmap("b", 4 * KIB, within(extents)))
    whole = image.read(0, image.size + 1)

    assert len(whole) == image.size
    for _ in range(100):
        offset, length = source.randrange(image.size + 9), source.randrange(200_000)
        assert image.read(offset, length) == whole[offset : offset + length]


def test_the_granularity_suits_the_limit_of_qemu() -> None:
    assert bitmap_granularity(1 << 30, 4096) == 4096
    assert bitmap_granularity(16 * TIB, 4096) == 4096
    assert bitmap_granularity(16 * TIB + 1, 4096) == 8192
    assert bitmap_granularity(1 << 50, 64 * KIB) == 256 * KIB


def test_a_path_that_an_image_cannot_contain_is_refused() -> None:
    with pytest.raises(ValueError, match="too long"):
        Qcow2Image(1, b"/" * 40000, within([]))
    for path in (b'/a"b', b"/a\nb", b"/" * 512):
        with pytest.raises(ValueError, match="VMDK"):
            encode_vmdk(1, path, 1)
    with pytest.raises(ValueError, match="sector"):
        encode_vmdk(0, b"/a", 1)


@pytest.mark.parametrize("size", [1, 512, 64 * KIB + 1, 3 * TIB])
def test_qemu_reads_a_descriptor(tmp_path: Path, size: int) -> None:
    raw, path = tmp_path / "raw", tmp_path / "disk.vmdk"
    with raw.open("wb") as file:
        file.truncate(size)
        file.write(b"x")
    path.write_bytes(encode_vmdk(size, bytes(raw), 5))

    assert (
        json.loads(qemu_img("info", "--output=json", path))["virtual-size"] == -(-size // 512) * 512
    )
    if size < TIB:
        qemu_img("compare", "-f", "raw", "-F", "vmdk", raw, path)
