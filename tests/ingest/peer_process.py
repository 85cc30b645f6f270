"""A second process that works on the same repository in lockstep with the test."""

import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO, NoReturn


class Line:
    """A connection between two processes that transfers lines."""

    def __init__(self, reading: int, writing: int) -> None:
        self._reading: BinaryIO = os.fdopen(reading, "rb", 0)
        self._writing: BinaryIO = os.fdopen(writing, "wb", 0)

    def send(self, text: str) -> None:
        self._writing.write(text.encode() + b"\n")

    def receive(self) -> str:
        """Return the next line; empty if the other process closed the connection."""
        return self._reading.readline().decode().rstrip("\n")

    def close(self) -> None:
        self._writing.close()
        self._reading.close()


@contextmanager
def peer(work: Callable[[Line], None]) -> Iterator[Line]:
    """Fork a process that does *work*; assert at the end of the block that it succeeded."""
    down, up = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.close(down[1])
        os.close(up[0])
        _be_peer(work, Line(down[0], up[1]))
    os.close(down[0])
    os.close(up[1])
    line = Line(up[0], down[1])
    try:
        yield line
    finally:
        line.close()
        _, status = os.waitpid(child, 0)
    assert status == 0


def _be_peer(work: Callable[[Line], None], line: Line) -> NoReturn:
    code = 1
    try:
        work(line)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)
