"""Extraction of files of one or several points, with progress."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from cbtfs.cli.report.output import note
from cbtfs.cli.report.progress import progress
from cbtfs.core.names import printable
from cbtfs.core.units import format_size
from cbtfs.errors import TargetFailed, UsageError

if TYPE_CHECKING:
    from cbtfs.cli.report.documents import Document
    from cbtfs.files.extract import Extracted
    from cbtfs.files.tree import File, GuestTree


class Opened(Protocol):
    """The files of a point, and the path of one."""

    @property
    def tree(self) -> GuestTree: ...

    @property
    def path(self) -> str: ...

    def document(self) -> Document: ...


Open = Callable[[str], AbstractContextManager[Opened]]


def extract_all(
    locations: Sequence[str], target: str, open_location: Open, *, is_special: bool, is_quiet: bool
) -> tuple[list[Document], Extracted]:
    """Extract each location to *target*; return a document for each, and the sums.

    Raises:
        UsageError: *target* exists or cannot get several files.
        TargetFailed: the target refuses a write.
    """
    from cbtfs.files.extract import Extracted, Extraction
    from cbtfs.files.tar import Archive

    result = Extracted()
    documents: list[Document] = []
    stream = _standard_output() if target == "-" else None
    finish: Callable[[], None] | None = None
    for location in locations:
        with open_location(location) as opened:
            file = opened.tree.find(opened.path, follows=opened.path.endswith("/"))
            with progress(
                file.path, _bytes_below(opened.tree, file), is_wanted=not is_quiet
            ) as advance:
                if stream is not None:
                    archive = Archive(opened.tree, stream, advance, result)
                    archive.add(file, file.entry.name or ".")
                    finish = archive.finish
                    name = "-"
                else:
                    folder, name = _destination(target, file, is_single=len(locations) == 1)
                    job = Extraction(opened.tree, is_special, advance, result)
                    job.into(file, folder, name)
                    name = str(folder / name)
            documents.append({**opened.document(), "path": file.path, "target": name})
    if finish is not None:
        finish()
    return documents, result


class _StandardOutput:
    """Standard output as the stream of an archive."""

    def write(self, data: bytes | memoryview) -> None:
        try:
            sys.stdout.buffer.write(data)
        except BrokenPipeError:
            raise
        except OSError as exc:
            raise TargetFailed(f"cannot write to standard output: {exc.strerror}") from exc


def _standard_output() -> _StandardOutput:
    if sys.stdout.isatty():
        raise UsageError("standard output is a terminal: name a directory, or use a pipe")
    return _StandardOutput()


def _destination(target: str, file: File, *, is_single: bool) -> tuple[Path, str]:
    """Return the directory and the name of an extracted file: as `cp` does."""
    path = Path(target)
    if path.is_dir():
        return path, file.entry.name or file.volume.name.replace("/", "-") or "guest"
    if not is_single:
        raise UsageError(f"{printable(target)} is not a directory, which several files need")
    if target.endswith("/"):
        raise UsageError(f"{printable(target)} is not a directory: create it")
    return path.parent, path.name


def _bytes_below(tree: GuestTree, top: File) -> int:
    """Return the sum of the sizes of all regular files, for the progress."""
    from cbtfs.files.protocol import Kind
    from cbtfs.files.walk import LeftOut, walk

    return sum(f.entry.size for f in walk(tree, top, LeftOut()) if f.entry.kind is Kind.FILE)


def totals(result: Extracted) -> Document:
    """Return the members that count what was extracted."""
    return {
        "files": result.files,
        "directories": result.directories,
        "bytes": result.bytes,
        "set_id_files": result.set_id_files,
        "attributes_lost": result.attributes_lost,
    }


def note_totals(result: Extracted) -> None:
    """Report what was extracted, and what this user or the target could not keep."""
    note(
        f"extracted {result.files} files and {result.directories} directories, "
        f"{format_size(result.bytes)}"
    )
    if result.set_id_files:
        note(f"{result.set_id_files} files are without set-uid and set-gid bits; see --special")
    if result.attributes_lost:
        note(f"{result.attributes_lost} extended attributes cannot be set here")
    if os.geteuid() != 0 and result.files + result.directories:
        note("all files belong to this user; a tar archive (TARGET -) keeps their owners")
