"""Damaged file systems are read or refused: no crash, no hang, no file outside of the target."""

import io
import os
import random
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from cbtfs.files.engine_parse.engine import ParsedFileSystem
from cbtfs.files.engine_parse.processes import ForkedParsers
from cbtfs.files.extract import Extracted, Extraction
from cbtfs.files.fat.volume import FatFileSystem
from cbtfs.files.tar import Archive
from cbtfs.files.tree import GuestTree
from cbtfs.files.volumes import Volume
from cbtfs.files.walk import LeftOut, walk
from tests.files.damaged import campaign
from tests.files.guest_trees import ImageSource

COUNT: Final = int(os.environ.get("CBTFS_DAMAGED_IMAGES", "12"))
"""Images of each file system. Set it to 10000 for a campaign of hours."""
XFS_COUNT: Final = 20 * COUNT
"""Images of XFS, which is only probed."""


def content(folder: Path) -> Path:
    """Return a directory with the files of an image."""
    source = folder / "content"
    (source / "directory" / "below").mkdir(parents=True)
    for number in range(20):
        (source / "directory" / f"file {number}").write_text(f"content {number}\n")
    (source / "random").write_bytes(random.Random(1).randbytes(100_000))
    return source


def ext(folder: Path) -> Path:
    source, image = content(folder), folder / "ext"
    (source / "link").symlink_to("../../../../outside")
    os.link(source / "random", source / "directory" / "second name")
    os.truncate(source / "random", 3 << 20)
    options: list[str | Path] = ["-t", "ext4", "-I", "256", "-O", "inline_data", "-d", source]
    subprocess.run(["mke2fs", "-q", "-F", *options, image, "8M"], check=True, capture_output=True)
    return image


def fat(folder: Path) -> Path:
    source, image = content(folder), folder / "fat"
    with image.open("wb") as file:
        file.truncate(4 << 20)
    subprocess.run(["mkfs.vfat", "-F", "16", "-s", "1", image], check=True, capture_output=True)
    files = sorted(source.iterdir())
    subprocess.run(["mcopy", "-s", "-i", image, *files, "::"], check=True)
    return image


@pytest.mark.limit(36_000)
@pytest.mark.parametrize("make", [ext, fat], ids=["ext", "fat"])
def test_damaged_images_do_no_harm(make: Callable[[Path], Path], tmp_path: Path) -> None:
    results = campaign(make.__name__, make(tmp_path), COUNT)

    assert sum(results.values()) == COUNT
    assert not any("signal" in text for text in results)


@pytest.mark.limit(36_000)
def test_damaged_images_of_xfs_are_probed(tmp_path: Path) -> None:
    image = tmp_path / "xfs"
    with image.open("wb") as file:
        file.truncate(300 << 20)
    subprocess.run(["mkfs.xfs", "-q", image], check=True)
    os.truncate(image, 2 << 20)

    assert campaign("none", image, XFS_COUNT) == {"probed": XFS_COUNT}


def test_texts_with_zero_bytes_are_damage_and_the_other_files_are_extracted(tmp_path: Path) -> None:
    """A campaign found such a name of an attribute, which ended the command by a traceback."""
    source = content(tmp_path)
    (source / "link").symlink_to("target-of-a-link")
    os.setxattr(source / "random", "user.attribute", b"value")
    image = tmp_path / "image"
    command: list[str | Path] = ["mke2fs", "-q", "-t", "ext4", "-I", "256", "-d", source, image]
    subprocess.run([*command, "8M"], check=True, capture_output=True)
    data = image.read_bytes()
    for text in (b"target-of-a-link", b"attribute"):
        assert text in data
        data = data.replace(text, text[:3] + b"\0" + text[4:])
    image.write_bytes(data)

    with closing(ForkedParsers("ext")) as parsers:
        file_system = ParsedFileSystem(ImageSource(image), "ext", parsers=parsers)
        tree = GuestTree({"/": Volume("root", ImageSource(image))}, lambda _: file_system)
        extraction = Extraction(tree)
        extraction.into(tree.find("/"), tmp_path, "target")
        archive = Archive(tree, io.BytesIO(), lambda _: None, Extracted())
        archive.add(tree.find("/"), ".")
        file_system.close()

    for left_out in (extraction.result.left_out, archive.result.left_out):
        assert sorted((path, str(reason)) for path, reason in left_out.items) == [
            ("/link", "/link: the target of the link is damaged"),
            ("/random", "/random: the name of an attribute is damaged"),
        ]
    assert (tmp_path / "target" / "directory" / "file 7").read_text() == "content 7\n"


def test_a_directory_that_contains_itself_is_left_out(tmp_path: Path) -> None:
    """The entry of the inner directory of a FAT gets the cluster of the outer one."""
    image = fat(tmp_path)
    data = bytearray(image.read_bytes())
    outer = data.index(b"DIRECT~1   \x10") if b"DIRECT~1   \x10" in data else -1
    inner = data.index(b"BELOW      \x10")
    data[inner + 26 : inner + 28] = data[outer + 26 : outer + 28]
    image.write_bytes(data)
    file_system = FatFileSystem(ImageSource(image))
    tree = GuestTree({"/": Volume("root", ImageSource(image))}, lambda _: file_system)  # type: ignore[arg-type,return-value]

    left_out = LeftOut()
    paths = [file.path for file in walk(tree, tree.find("/"), left_out)]
    extraction = Extraction(tree)
    extraction.into(tree.find("/"), tmp_path, "target")

    assert len(paths) < 100
    for items in (left_out.items, extraction.result.left_out.items):
        [(path, reason)] = items
        assert path == "/directory/below/below"
        assert "contains itself" in str(reason)
