"""Sparse raw files: data ranges, exact copies, differences.

The cost of every function depends on the data in the files, not on their size (lseek(2):
SEEK_DATA).
"""

import ctypes
import errno
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tools.vsim.model.span import Span, gaps, merged, overlaid, whole_units

PIECE = 1 << 20  # bytes per read
GRAIN = 4096  # granularity of differences: the block size of common file systems
FICLONE = 0x40049409  # linux/fs.h
PUNCH_HOLE_KEEP_SIZE = 0x02 | 0x01  # linux/falloc.h

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


@dataclass(frozen=True, slots=True)
class Drift:
    """The difference between a live image and its copy: written and discarded ranges."""

    written: tuple[Span, ...]
    discarded: tuple[Span, ...]


def data_spans(fd: int, size: int, start: int = 0) -> Iterator[Span]:
    """Return the ranges of [start, size) that may hold nonzero bytes, ascending."""
    position = start
    while position < size:
        try:
            begin = os.lseek(fd, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # the rest is a hole
                return
            raise
        if begin >= size:
            return
        position = min(os.lseek(fd, begin, os.SEEK_HOLE), size)
        yield Span(begin, position)


def read_padded(fd: int, start: int, length: int) -> bytes:
    """Return exactly *length* bytes; bytes past the end of the file are zeros."""
    pieces = []
    while length > 0:
        piece = os.pread(fd, length, start)
        if not piece:
            pieces.append(bytes(length))
            break
        pieces.append(piece)
        start += len(piece)
        length -= len(piece)
    return b"".join(pieces)


def punch(fd: int, span: Span) -> None:
    """Punch a hole; write zeros if the file system has no holes."""
    if _libc.fallocate(fd, PUNCH_HOLE_KEEP_SIZE, span.start, span.length) != 0:
        for start in range(span.start, span.end, PIECE):
            os.pwrite(fd, bytes(min(PIECE, span.end - start)), start)


def copy_image(source: Path, target: Path, size: int) -> None:
    """Replace *target* atomically with a copy of *source* that has the same bytes and holes."""
    aside = target.with_name(target.name + ".new")
    with source.open("rb") as from_file, aside.open("wb") as to_file:
        try:
            fcntl.ioctl(to_file, FICLONE, from_file.fileno())
        except OSError:  # this file system has no reflinks
            for span in data_spans(from_file.fileno(), size):
                _copy_span(from_file.fileno(), to_file.fileno(), span)
        os.ftruncate(to_file.fileno(), size)
    aside.replace(target)


def overwrite_image(source: Path, target: Path, size: int) -> None:
    """Overwrite *target* in place with the bytes of *source*; *target* keeps its inode."""
    with source.open("rb") as from_file, target.open("r+b") as to_file:
        os.ftruncate(to_file.fileno(), 0)
        os.ftruncate(to_file.fileno(), size)
        for span in data_spans(from_file.fileno(), size):
            _copy_span(from_file.fileno(), to_file.fileno(), span)


def catch_up(live: Path, copy: Path, size: int, unit: int = GRAIN) -> Drift:
    """Make *copy* equal to *live*; return the differences.

    The datastore frees whole units of *unit* bytes, which become holes in *copy*. A unit that was
    discarded only in part stays allocated, and becomes zeros.

    Each byte of *live* is read once, and *copy* receives the bytes that were read: this call or
    the next one catches a concurrent write of the guest, never half.
    """
    written: list[Span] = []
    discarded: list[Span] = []
    live_fd, copy_fd = os.open(live, os.O_RDONLY), os.open(copy, os.O_RDWR)
    try:
        os.ftruncate(copy_fd, size)
        in_live, in_copy = (list(data_spans(fd, size)) for fd in (live_fd, copy_fd))
        free = list(whole_units(gaps(in_live, size), unit, size))
        for span, is_live, is_copied in overlaid(in_live, in_copy):
            if not is_live:
                for part, is_free, is_held in overlaid(free, [span]):
                    if is_free and is_held:
                        discarded += _nonzero(copy_fd, part)
                        punch(copy_fd, part)
                    elif is_held:
                        written += _zeroed(copy_fd, part)
            elif not is_copied:  # data in place of a hole is a change even if it is zero
                _copy_span(live_fd, copy_fd, span)
                written.append(span)
            else:
                written += _adopt(live_fd, copy_fd, span)
    finally:
        os.close(live_fd)
        os.close(copy_fd)
    return Drift(tuple(merged(written)), tuple(merged(discarded)))


def _pieces(span: Span) -> Iterator[Span]:
    for start in range(span.start, span.end, PIECE):
        yield Span(start, min(start + PIECE, span.end))


def _nonzero(fd: int, span: Span) -> Iterator[Span]:
    for piece in _pieces(span):
        held = read_padded(fd, piece.start, piece.length)
        yield from _unequal(held, bytes(piece.length), piece.start)


def _zeroed(fd: int, span: Span) -> list[Span]:
    """Overwrite nonzero bytes of the range with zeros; return their spans."""
    nonzero = list(_nonzero(fd, span))
    for part in nonzero:
        os.pwrite(fd, bytes(part.length), part.start)
    return nonzero


def _adopt(live_fd: int, copy_fd: int, span: Span) -> Iterator[Span]:
    for piece in _pieces(span):
        new = read_padded(live_fd, piece.start, piece.length)
        changes = list(_unequal(new, read_padded(copy_fd, piece.start, piece.length), piece.start))
        for change in changes:
            begin = change.start - piece.start
            os.pwrite(copy_fd, new[begin : begin + change.length], change.start)
        yield from changes


def _unequal(new: bytes, old: bytes, offset: int) -> Iterator[Span]:
    if new == old:
        return
    for begin in range(0, len(new), GRAIN):
        end = min(begin + GRAIN, len(new))
        if new[begin:end] != old[begin:end]:
            yield Span(offset + begin, offset + end)


def _copy_span(from_fd: int, to_fd: int, span: Span) -> None:
    position = span.start
    while position < span.end:
        try:
            copied = os.copy_file_range(
                from_fd, to_fd, span.end - position, offset_src=position, offset_dst=position
            )
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            piece = os.pread(from_fd, min(PIECE, span.end - position), position)
            copied = os.pwrite(to_fd, piece, position)
        if copied == 0:  # the source is shorter than it was
            return
        position += copied
