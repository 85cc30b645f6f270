"""Reads of one disk by several threads: parts of a large read, and data ahead of a sequential one.

Decoding and hashing run outside the interpreter's lock. One thread alone would read as fast as one
core verifies.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Final

from cbtfs.errors import ChunkMissing, DataCorrupt

PIECE_BYTES: Final = 1 << 20
LOADERS: Final = min(os.cpu_count() or 1, 8)
_AHEAD: Final = 2 * LOADERS
"""Number of pieces that are read ahead; bounds memory."""

ReadInto = Callable[[int, memoryview], None]
"""Function that fills a buffer from an offset of the disk; safe to call from several threads."""


class ReadAhead:
    """Sequential reads of one disk. One thread at a time may use it."""

    def __init__(self, read_into: ReadInto, size: int, pool: ThreadPoolExecutor) -> None:
        self._read_into = read_into
        self._size = size
        self._pool = pool
        self._pieces: deque[tuple[int, memoryview, Future[None]]] = deque()
        self._free: list[memoryview] = []
        self._next = 0
        """Offset of the next piece to read ahead."""

    def read(self, offset: int, target: memoryview) -> None:
        """Fill *target* from *offset*; the range is within the disk.

        Pieces are read ahead while each call continues where the one before ended.
        """
        done = 0
        while done < len(target):
            at = offset + done
            start, piece, future = self._piece(at)
            within = at - start
            count = min(len(piece) - within, len(target) - done)
            try:
                future.result()
            except (ChunkMissing, DataCorrupt):
                self.drop()
                self._read_into(at, target[done:])  # the damage may be outside of this range
                return
            except BaseException:
                self.drop()
                raise
            target[done : done + count] = piece[within : within + count]
            done += count

    def _piece(self, offset: int) -> tuple[int, memoryview, Future[None]]:
        """Return the piece that contains *offset*, and start to read the ones behind it."""
        while self._pieces:
            start, piece, future = self._pieces[0]
            if start <= offset < start + len(piece):
                break
            if offset < start or offset >= self._next:
                self.drop()
                break
            self._pieces.popleft()
            self._reuse(piece, future)
        if not self._pieces:
            self._next = offset // PIECE_BYTES * PIECE_BYTES
        while len(self._pieces) < _AHEAD and self._next < self._size:
            length = min(PIECE_BYTES, self._size - self._next)
            buffer = self._free.pop() if self._free else memoryview(bytearray(PIECE_BYTES))
            piece = buffer[:length]
            future = self._pool.submit(self._read_into, self._next, piece)
            self._pieces.append((self._next, piece, future))
            self._next += length
        return self._pieces[0]

    def _reuse(self, piece: memoryview, future: Future[None]) -> None:
        if future.done() and len(piece) == PIECE_BYTES:
            self._free.append(piece)

    def drop(self) -> None:
        """Drop what was read ahead."""
        for _, _, future in self._pieces:
            future.cancel()
        self._pieces.clear()


def read_parallel(
    read_into: ReadInto, offset: int, target: memoryview, pool: ThreadPoolExecutor
) -> None:
    """Fill *target* from *offset* by several threads; the error of the first part that fails."""
    futures = [
        pool.submit(read_into, offset + at, target[at : at + PIECE_BYTES])
        for at in range(0, len(target), PIECE_BYTES)
    ]
    wait(futures)
    for future in futures:
        future.result()
