"""Recording of the system calls of a child by strace: all calls that change or flush a file."""

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tools.crash.tracer import Tracer

_CHANGING: Final = (
    "write,writev,pwrite64,pwritev,pwritev2,lseek,ftruncate,truncate,fallocate,copy_file_range,"
    "fsync,fdatasync,sync_file_range,sync,syncfs,msync,mmap,"
    "open,openat,openat2,creat,close,dup,dup2,dup3,fcntl,"
    "rename,renameat,renameat2,link,linkat,unlink,unlinkat,mkdir,mkdirat,rmdir,"
    "symlink,symlinkat,mknod,mknodat,io_uring_setup,io_submit"
)
_BIRTHS: Final = ("clone", "clone3", "fork", "vfork")
_LONGEST: Final = 8 << 20
"""Maximum recorded bytes of a call: more than any write of cbtfs."""
NEVER: Final = sys.maxsize

_LINE = re.compile(
    r"(?P<task>\d+) +(?:<\.\.\. (?P<resumed>\w+) resumed>|(?P<name>\w+)\()(?P<rest>.*)"
)
_END = re.compile(r"\) += (?P<result>-?\d+|0x[0-9a-f]+|\?)")
_UNFINISHED: Final = " <unfinished ...>"
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?')


@dataclass(frozen=True, slots=True)
class RecordedCall:
    """A call that succeeded or did not return."""

    name: str
    text: str
    """Arguments as printed by strace, with strings in hexadecimal, so that they have no comma."""
    result: int
    begun: int
    """Line number in the recording; an earlier line is an earlier moment for all threads."""
    ended: int
    is_own: bool
    """Whether the recorded process made the call, not one of its children."""

    @property
    def arguments(self) -> list[str]:
        """One string per argument; only valid for calls without structures."""
        return self.text.split(", ")

    @property
    def strings(self) -> list[bytes]:
        """The strings among the arguments."""
        strings = []
        for digits, cut in _STRING.findall(self.text):
            if cut:
                raise ValueError(f"{self.name} at {self.begun} was truncated")
            strings.append(bytes.fromhex(digits.replace("\\x", "")))
        return strings


def recorder(file: Path) -> Tracer:
    """Return an strace that records a child; parse() reads its lines."""
    traced = f"trace={_CHANGING},{','.join(_BIRTHS)}"
    return Tracer(file, "-xx", "-s", str(_LONGEST), "-e", traced)


def parse(lines: Sequence[str]) -> Iterator[RecordedCall]:
    """Yield the calls that succeeded or did not return, in the order of their begin."""
    open_calls: dict[str, tuple[str, str, int]] = {}
    recorded: list[tuple[str, RecordedCall]] = []
    others: set[str] = set()
    for number, line in enumerate(lines):
        match = _LINE.match(line)
        if match is None:
            continue
        task = match["task"]
        if match["name"] is None:
            name, text, begun = open_calls.pop(task)
        else:
            name, text, begun = match["name"], "", number
        text += match["rest"]
        if text.endswith(_UNFINISHED):
            open_calls[task] = name, text.removesuffix(_UNFINISHED), begun
            continue
        end = _END.search(text)
        if end is None:
            raise ValueError(f"not a call: {line[:200]}")
        result = -1 if end["result"] == "?" else int(end["result"], 0)
        text = text[: end.start()]
        if name in _BIRTHS and "CLONE_THREAD" not in text:
            others.add(str(result))
        if result >= 0 or end["result"] == "?":
            ended = NEVER if end["result"] == "?" else number
            recorded.append((task, RecordedCall(name, text, result, begun, ended, is_own=True)))
    for task, (name, text, begun) in open_calls.items():
        recorded.append((task, RecordedCall(name, text, -1, begun, NEVER, is_own=True)))
    threads = _threads(recorded)
    for task, call in sorted(recorded, key=lambda pair: pair[1].begun):
        is_own = _process(task, threads) not in others
        yield RecordedCall(call.name, call.text, call.result, call.begun, call.ended, is_own)


def _threads(recorded: Sequence[tuple[str, RecordedCall]]) -> dict[str, str]:
    """Return the parent thread of each started thread."""
    return {
        str(call.result): task
        for task, call in recorded
        if call.name in _BIRTHS and "CLONE_THREAD" in call.text
    }


def _process(task: str, threads: dict[str, str]) -> str:
    """Return the main thread of the process of *task*."""
    while task in threads:
        task = threads[task]
    return task
