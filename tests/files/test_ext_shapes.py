"""ext4 with encrypted directories, and with very large ones."""

import os
import subprocess
from pathlib import Path
from typing import Final

import pytest

from cbtfs.files.engine_parse.engine import ParsedFileSystem
from cbtfs.files.extract import Extraction
from cbtfs.files.protocol import FileSystemUnsupported
from cbtfs.files.tree import GuestTree
from cbtfs.files.volumes import Volume
from tests.files.guest_trees import ImageSource, mounted
from tests.files.guest_trees import make as make_empty

ENTRIES: Final = int(os.environ.get("CBTFS_DIRECTORY_ENTRIES", "3000"))
"""Files in one directory. Set it to 100000."""
_ENCRYPTED: Final = 0x800
_EXTENTS: Final = 0x80000


def make(folder: Path, content: Path, mib: int, *options: str) -> Path:
    image = folder / "image"
    command: list[str | Path] = [
        "mke2fs",
        "-q",
        "-t",
        "ext4",
        *options,
        "-d",
        content,
        image,
        f"{mib}M",
    ]
    subprocess.run(command, check=True, capture_output=True)
    return image


def test_an_encrypted_directory_is_refused_and_left_out(tmp_path: Path) -> None:
    content = tmp_path / "content"
    (content / "vault").mkdir(parents=True)
    (content / "vault" / "secret").write_text("secret")
    (content / "plain").write_text("plain")
    image = make(tmp_path, content, 8, "-O", "encrypt,^has_journal")
    flags = f"set_inode_field /vault flags {_ENCRYPTED | _EXTENTS:#x}"
    subprocess.run(["debugfs", "-w", "-R", flags, image], check=True, capture_output=True)
    file_system = ParsedFileSystem(ImageSource(image), "ext")
    tree = GuestTree({"/": Volume("root", ImageSource(image))}, lambda _: file_system)

    with pytest.raises(FileSystemUnsupported, match="encrypted by the guest"):
        list(file_system.entries("/vault"))
    extraction = Extraction(tree)
    extraction.into(tree.find("/"), tmp_path, "target")

    [(path, reason)] = extraction.result.left_out.items
    assert (path, "encrypted" in str(reason)) == ("/vault", True)
    assert (tmp_path / "target" / "plain").read_text() == "plain"
    file_system.close()


@pytest.mark.mounts
@pytest.mark.limit(1800)
def test_a_large_directory_is_listed_and_found(tmp_path: Path) -> None:
    image = tmp_path / "image"
    make_empty(image, f"-t ext4 -b 4096 -N {ENTRIES + 1000}", 64 + ENTRIES // 1000)
    names = {f"{'n' * 100}-{number}" for number in range(ENTRIES)}
    with mounted(image) as root:
        (root / "many").mkdir()
        for name in names:
            (root / "many" / name).touch()
    file_system = ParsedFileSystem(ImageSource(image), "ext")

    assert {entry.name for entry in file_system.entries("/many")} == names
    assert file_system.stat(f"/many/{'n' * 100}-{ENTRIES - 1}").size == 0
    file_system.close()
