"""Differences of files between points of a real ext4, compared with a walk that reads all files."""

import os
import random
import shutil
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import combinations
from pathlib import Path

import pytest

from cbtfs.core.manifest import Manifest
from cbtfs.files import compare
from cbtfs.files.content import write_content
from cbtfs.files.diff import Change, differences
from cbtfs.files.folder import clamped
from cbtfs.files.guest_folders import paths_below
from cbtfs.files.point import PointFiles, open_files
from cbtfs.files.protocol import FORMAT_OF_KIND, Kind
from cbtfs.files.tree import File
from cbtfs.files.walk import LeftOut, walk
from cbtfs.store.repository import Repository, reading
from tests.files.jbd2.busy import Shape, mounted, run
from tests.make_points import add_point, new_repository

SHAPES = {
    "journal": Shape("-t ext4 -b 1024 -J size=1 -O metadata_csum,64bit", "commit=600", mib=6),
    "data": Shape("-t ext4 -b 1024 -J size=1 -O inline_data -I 256", "data=journal", mib=6),
    "map": Shape("-t ext3 -b 1024 -J size=1", "commit=600", mib=6),
}
POINTS = 6
CHANGES = 7
"""Changes between two points."""
HISTORIES = int(os.environ.get("CBTFS_FILE_HISTORIES", "1"))
"""Histories for each shape of file system."""


def change(root: Path, source: random.Random, number: int) -> None:
    """Change a few files in one way, and flush them."""
    files = [path for path in sorted(root.rglob("*")) if path.is_file() and not path.is_symlink()]
    folders = [root, *(path for path in sorted(root.rglob("*")) if path.is_dir())]
    file, folder = source.choice(files), source.choice(folders)
    new = folder / f"new-{number}"
    kind = source.randrange(13)
    if kind == 0:
        new.write_bytes(source.randbytes(source.choice((0, 30, 1500, 9000))))
    elif kind == 1:
        file.write_bytes(source.randbytes(file.stat().st_size))
    elif kind == 2:
        _patch(file, source, is_hidden=True)
    elif kind == 3:
        os.truncate(file, source.randrange(20_000))
    elif kind == 4 and len(files) > 3:
        file.unlink()
    elif kind == 5:
        file.rename(new)
    elif kind == 6:
        file.chmod(source.choice((0o600, 0o644, 0o755)))
    elif kind == 7:
        os.chown(file, source.randrange(3), source.randrange(3))
    elif kind == 8:
        new.symlink_to("t" * source.choice((5, 59, 60, 200)))
    elif kind == 9:
        os.link(file, new)
    elif kind == 10:
        new.mkdir()
        (new / "file").write_text("in it")
    elif kind == 11 and folder != root:
        shutil.rmtree(folder)
    else:
        _patch(file, source, is_hidden=False)
    run("sync", "-f", root) if source.randrange(4) else None


def _patch(file: Path, source: random.Random, *, is_hidden: bool) -> None:
    """Change a few bytes in place, or write beyond the end; hide this from the time."""
    times = file.stat()
    with file.open("r+b") as opened:
        opened.seek(source.randrange(max(times.st_size, 1) + (0 if is_hidden else 9000)))
        opened.write(source.randbytes(min(40, max(times.st_size - opened.tell(), 1))))
        opened.flush()
        os.fsync(opened.fileno())
    if is_hidden:
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


@contextmanager
def history(folder: Path, shape: Shape, seed: int) -> Iterator[tuple[Repository, list[Manifest]]]:
    """Yield points of a running guest."""
    source, manifests = random.Random(seed), []
    repository = new_repository(folder / "repository")
    with mounted(shape, folder) as (image, root):
        (root / "etc").mkdir()
        for number in range(8):
            size = source.choice((20, 900, 5000, 30_000))
            (root / "etc" / f"file-{number}").write_bytes(source.randbytes(size))
        _fragmented(root / "fragmented", root / "between")
        os.mknod(root / "device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
        for number in range(POINTS):
            run("sync", "-f", root)
            manifests.append(add_point(repository, {"root": image.read_bytes()}))
            for step in range(CHANGES):
                change(root, source, number * 100 + step)
            if number == 2:
                (root / "device").unlink()
                os.mknod(root / "device", stat.S_IFCHR | 0o600, os.makedev(1, 5))
    with reading(repository) as opened:
        yield opened, manifests


def _fragmented(*files: Path) -> None:
    """Write files in turns, so that they have many extents."""
    with ExitStack() as stack:
        opened = [stack.enter_context(file.open("wb")) for file in files]
        for number in range(12):
            for file in opened:
                file.write(bytes([number + 1]) * 1024)
                file.flush()
                os.fdatasync(file.fileno())


Facts = dict[str, object]


def walked(files: PointFiles) -> dict[str, Facts]:
    """Return the facts of all files, with their contents."""
    left_out = LeftOut()
    found = {file.path: _facts(file) for file in walk(files.tree, files.tree.find("/"), left_out)}
    assert not left_out.items
    return found


def _facts(file: File) -> Facts:
    entry, content = file.entry, bytearray()
    if entry.kind is Kind.FILE:
        write_content(file, content.extend)
    return {
        "type": entry.kind,
        "mode": entry.mode,
        "owner": (entry.owner, entry.group),
        "size": entry.size if entry.kind in (Kind.FILE, Kind.LINK) else 0,
        "modified": clamped(entry.modified_ns),
        "content": bytes(content),
        "target": file.target() if entry.kind is Kind.LINK else "",
        "device": entry.device,
    }


def by_walk(before: dict[str, Facts], after: dict[str, Facts]) -> set[tuple[str, str, str]]:
    found = set()
    for path in before.keys() | after.keys():
        ours, theirs = before.get(path), after.get(path)
        if ours is None or theirs is None:
            found.add((path, "added" if ours is None else "removed", ""))
        elif ours != theirs:
            aspects = [name for name, value in ours.items() if value != theirs[name]]
            if "type" in aspects:
                aspects = [
                    name for name in aspects if name in ("type", "mode", "owner", "modified")
                ]
            found.add((path, "changed", ", ".join(sorted(aspects))))
    return found


def as_walk(changes: Iterator[Change]) -> set[tuple[str, str, str]]:
    listed = list(changes)
    for item in listed:
        for facts in (item.before, item.after):
            assert facts is None or facts.mode & 0o170000 in FORMAT_OF_KIND.values()
    return {(item.path, item.kind.value, ", ".join(sorted(item.aspects))) for item in listed}


@pytest.mark.mounts
@pytest.mark.parametrize("name", SHAPES)
def test_the_differences_are_those_of_a_walk_that_reads_all_files(
    tmp_path: Path, name: str
) -> None:
    hidden = 0
    for seed in range(HISTORIES):
        folder = tmp_path / str(seed)
        folder.mkdir()
        with history(folder, SHAPES[name], seed) as (repository, manifests), ExitStack() as stack:
            files = [stack.enter_context(open_files(repository, m, None)) for m in manifests]
            walks = [walked(point) for point in files]
            for point, walk_ in zip(files, walks, strict=True):
                listed = list(paths_below(point, point.tree.find("/"), LeftOut()))
                assert listed == list(walk_)
            for left, right in [*combinations(range(POINTS), 2), (3, 1), (2, 2)]:
                left_out = LeftOut()
                found = as_walk(differences(files[left], files[right], "/", left_out))

                assert found == by_walk(walks[left], walks[right])
                assert not left_out.items
                hidden += any(what == "content" for _, _, what in found)
    assert hidden or HISTORIES == 1


@pytest.mark.mounts
def test_contents_are_read_only_where_the_points_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[str] = []
    original = compare.has_same_content

    def counted(left: File, right: File, areas: object) -> bool:
        compared.append(left.path)
        return original(left, right, areas)  # type: ignore[arg-type]

    monkeypatch.setattr("cbtfs.files.diff.has_same_content", counted)
    repository = new_repository(tmp_path / "repository")
    manifests = []
    with mounted(SHAPES["journal"], tmp_path) as (image, root):
        for number in range(40):
            (root / f"file-{number}").write_bytes(bytes([number + 1]) * 20_000)
        run("umount", root)
        manifests.append(add_point(repository, {"root": image.read_bytes()}))
        run("mount", "-o", "loop", image, root)
        times = (root / "file-7").stat()
        with (root / "file-7").open("r+b") as file:
            file.seek(9000)
            file.write(b"changed")
        os.utime(root / "file-7", ns=(times.st_atime_ns, times.st_mtime_ns))
        run("umount", root)
        manifests.append(add_point(repository, {"root": image.read_bytes()}))
        run("mount", "-o", "loop", image, root)
    with (
        reading(repository) as opened,
        open_files(opened, manifests[0], None) as before,
        open_files(opened, manifests[1], None) as after,
    ):
        found = as_walk(differences(before, after, "/file-7", LeftOut()))
        below = as_walk(differences(before, after, "/", LeftOut()))

    assert found == below == {("/file-7", "changed", "content")}
    assert set(compared) <= {f"/file-{number}" for number in (6, 7, 8)}
