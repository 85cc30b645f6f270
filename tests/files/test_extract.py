"""Extraction keeps what it may, and never follows a link or leaves its target."""

import io
import os
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from cbtfs.errors import TargetFailed, UsageError
from cbtfs.files.engine_parse.engine import ParsedFileSystem
from cbtfs.files.extract import Extraction
from cbtfs.files.protocol import GuestFileMissing, Kind
from cbtfs.files.tar import Archive
from cbtfs.files.tree import GuestTree
from cbtfs.files.volumes import Volume
from tests.files.guest_trees import (
    ImageSource,
    attributes_of,
    expected,
    fill,
    make,
    mounted,
    paths_below,
)

pytestmark = pytest.mark.mounts

KEPT = {
    *("user.comment", "user.empty", "user.large", "trusted.key"),
    *("system.posix_acl_access", "system.posix_acl_default"),
}
DEVICES = {"/null", "/disk"}


@dataclass(frozen=True, slots=True)
class Guest:
    """A tree of a guest, and the directory where its file system is mounted."""

    tree: GuestTree
    root: Path

    def extraction(self, *, is_special: bool = False) -> Extraction:
        return Extraction(self.tree, is_special)


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    image = tmp_path_factory.mktemp("guest") / "image"
    make(image, "-t ext4 -b 4096")
    with mounted(image) as root:
        fill(root, 50)
    with mounted(image, "ro") as root, tree_of(image) as tree:
        yield Guest(tree, root)


@contextmanager
def tree_of(image: Path) -> Iterator[GuestTree]:
    volume = Volume("root", ImageSource(image))
    file_system = ParsedFileSystem(volume.source, "ext")
    yield GuestTree({"/": volume}, lambda volume: file_system)
    file_system.close()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Yield a directory of a file system that keeps all attributes."""
    image = tmp_path / "target"
    make(image, "-t ext4 -b 4096", 128)
    with mounted(image) as root:
        yield root


def test_everything_is_extracted_as_root_except_special_files(guest: Guest, disk: Path) -> None:
    extraction = guest.extraction()

    extraction.into(guest.tree.find("/"), disk, "copy")

    copy, result = disk / "copy", extraction.result
    assert {path for path, _ in result.left_out.items} == DEVICES
    assert result.set_id_files == 1
    assert set(paths_below(copy)) == set(paths_below(guest.root)) - DEVICES
    for path in paths_below(copy):
        compare(guest.root / path[1:], copy / path[1:])
    assert (copy / "sparse").stat().st_blocks < 100
    assert (copy / "small").samefile(copy / "second-name")
    assert result.files + result.directories == len(list(paths_below(copy)))


def compare(original: Path, copy: Path, *, is_special: bool = False) -> None:
    """Compare all that an extraction keeps."""
    facts, found = original.lstat(), copy.lstat()
    mode = facts.st_mode if is_special else facts.st_mode & ~0o6000
    assert found.st_mode == mode
    assert (found.st_uid, found.st_gid) == (facts.st_uid, facts.st_gid)
    assert found.st_mtime_ns == facts.st_mtime_ns
    attributes = attributes_of(original)
    assert attributes_of(copy) == {n: v for n, v in attributes.items() if n in KEPT or is_special}
    if stat.S_ISLNK(facts.st_mode):
        assert copy.readlink() == original.readlink()
    if stat.S_ISREG(facts.st_mode):
        assert found.st_size == facts.st_size
        if facts.st_size < 1 << 24:
            assert copy.read_bytes() == original.read_bytes()


def test_special_files_are_extracted_on_demand(guest: Guest, disk: Path) -> None:
    extraction = guest.extraction(is_special=True)

    extraction.into(guest.tree.find("/"), disk, "copy")

    assert extraction.result.left_out.items == []
    for path in ("null", "disk", "program", "attributes"):
        compare(guest.root / path, disk / "copy" / path, is_special=True)
        assert (disk / "copy" / path).lstat().st_rdev == (guest.root / path).lstat().st_rdev


def test_a_target_without_attributes_gets_the_contents(guest: Guest, tmp_path: Path) -> None:
    extraction = guest.extraction()
    subprocess.run(["mount", "-t", "ramfs", "ramfs", tmp_path], check=True)
    try:
        extraction.into(guest.tree.find("/attributes"), tmp_path, "copy")

        assert (tmp_path / "copy").read_text() == "x"
    finally:
        subprocess.run(["umount", tmp_path], check=True)
    assert extraction.result.attributes_lost == 4


@pytest.mark.parametrize("name", ["file", "link", "directory"])
def test_an_existing_target_is_refused_and_not_changed(
    guest: Guest, tmp_path: Path, name: str
) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "directory").mkdir()

    with pytest.raises(UsageError, match="exists"):
        guest.extraction().into(guest.tree.find("/small"), tmp_path, name)
    assert (tmp_path / "file").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 3


def test_a_link_that_appears_in_the_target_is_not_followed(guest: Guest, tmp_path: Path) -> None:
    """Another process makes a link with the name of a file while its directory is extracted."""
    outside = tmp_path / "outside"
    outside.write_text("precious")
    extraction = guest.extraction()

    def plant(count: int) -> None:
        for name in ("sparse", "third"):
            if not os.path.lexists(tmp_path / "copy" / name):
                (tmp_path / "copy" / name).symlink_to(outside)

    extraction.advance = plant
    extraction.into(guest.tree.find("/"), tmp_path, "copy")

    assert outside.read_text() == "precious"
    assert (tmp_path / "copy" / "sparse").is_symlink()
    assert "/sparse" in {path for path, _ in extraction.result.left_out.items}


def test_an_interrupted_file_has_no_name(guest: Guest, tmp_path: Path) -> None:
    extraction = guest.extraction()

    def interrupt(count: int) -> None:
        raise KeyboardInterrupt

    extraction.advance = interrupt
    with pytest.raises(KeyboardInterrupt):
        extraction.into(guest.tree.find("/fragmented"), tmp_path, "copy")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_ends_the_extraction(guest: Guest, tmp_path: Path) -> None:
    image = tmp_path / "full"
    make(image, "-t ext4", 2)
    with mounted(image) as root:
        free = os.statvfs(root).f_bavail * os.statvfs(root).f_bsize
        (root / "filler").write_bytes(b"f" * (free - (100 << 10)))

        with pytest.raises(TargetFailed, match="No space left"):
            guest.extraction().into(guest.tree.find("/"), root, "copy")
        assert not any(p.name.startswith(".cbtfs-") for p in (root / "copy").rglob("*"))


def test_links_are_followed_within_the_guest_only(guest: Guest) -> None:
    find = guest.tree.find

    assert find("/to-directory/another/deep").path == "/directory/in/another/deep"
    assert find("/to-directory").entry.kind is Kind.LINK
    assert find("/absolute", follows=True).path == "/small"
    assert find("/directory/../../../small").path == "/small"
    for path in ("/dangling", "/long-link"):
        with pytest.raises(GuestFileMissing):
            find(path, follows=True)


def test_an_archive_has_everything(guest: Guest, disk: Path) -> None:
    stream = io.BytesIO()
    archive = Archive(guest.tree, stream)
    archive.add(guest.tree.find("/"), "copy")
    archive.finish()

    subprocess.run(
        [
            *("tar", "--extract", "--xattrs", "--xattrs-include=*", "--acls", "--numeric-owner"),
            *("--preserve-permissions", "--directory", str(disk), "--warning=no-unknown-keyword"),
        ],
        input=stream.getvalue(),
        check=True,
    )
    assert [path for path, _ in archive.result.left_out.items] == ["/socket"]
    paths = set(paths_below(guest.root)) - {"/socket"}
    assert set(paths_below(disk / "copy")) == paths
    for path in paths:
        compare(guest.root / path[1:], disk / "copy" / path[1:], is_special=True)
    assert expected(disk / "copy", "/disk").device == expected(guest.root, "/disk").device
    assert len(stream.getvalue()) < 10 << 20
    with tarfile.open(fileobj=io.BytesIO(stream.getvalue())) as opened:
        assert len(opened.getmembers()) == len(paths)
