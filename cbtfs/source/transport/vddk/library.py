"""One loaded libvixDiskLib: its calls, with errors as exceptions and log lines as text."""

import ctypes
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

from cbtfs.source.transport.vddk import abi, frame

_PREFIX: Final = "VixDiskLib_"
_NAME: Final = re.compile(r"libvixDiskLib\.so\.(\d{1,3})((?:\.\d{1,6}){0,5})\Z")
_VERSIONS: Final = {6: (6, 5), 7: (7, 0), 8: (8, 0), 9: (9, 0)}
"""Number in the library's name, and the version of the interface to ask for."""
VERSIONS: Final = "6.5 to 9"
"""Releases of VDDK whose names and interfaces are those, for people to read."""
_LINE: Final = 4000
_SPARE: Final = 1024
"""Bytes behind our notion of ConnectParams, where the library itself does not allocate one."""
_LIBC: Final = ctypes.CDLL(None)
_LIBC.vsnprintf.argtypes = (ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_void_p)

Log = Callable[[str, str], None]
"""Level and line; from any thread."""


class VixError(Exception):
    """A call of the library failed."""

    def __init__(self, call: str, error: int, text: str) -> None:
        super().__init__(f"{_PREFIX}{call}: {text}")
        self.call = call
        self.number = abi.error_number(error)
        self.text = text


class LibraryFile(NamedTuple):
    """Where a library is, and the version of the interface that it has."""

    path: Path
    major: int
    minor: int

    @property
    def folder(self) -> Path:
        """Where the libraries are that it needs."""
        return self.path.parent

    @property
    def home(self) -> Path:
        """What VMware calls libdir: the directory that has lib64, if they are in one."""
        return self.folder.parent if self.folder.name == "lib64" else self.folder


def find_library(libdir: Path) -> LibraryFile | None:
    """Return the newest libvixDiskLib in the folder lib64 of *libdir*, or else in *libdir*."""
    for folder in (libdir / "lib64", libdir):
        try:
            names = os.listdir(folder)
        except OSError:
            continue
        known = [found for name in names if (found := _NAME.match(name)) and _major(found)]
        if known:
            newest = max(known, key=_preference)
            return LibraryFile(folder / newest[0], *_VERSIONS[_major(newest)])
    return None


def _major(found: re.Match[str]) -> int:
    """The first number in the name of a library; 0 if cbtfs does not know that version."""
    major = int(found[1])
    return major if major in _VERSIONS else 0


def _preference(found: re.Match[str]) -> tuple[int, bool, list[int]]:
    """The newest major version, by its own name where there is one, else the newest release."""
    rest = [int(number) for number in found[2].split(".")[1:]]
    return _major(found), not rest, rest


def formatted(template: bytes, arguments: int) -> str:
    """What printf makes of a template and a va_list, which is used up by that."""
    buffer = ctypes.create_string_buffer(_LINE)
    _LIBC.vsnprintf(buffer, _LINE, template, arguments)
    return buffer.value.decode("utf-8", "replace").rstrip()


class Library:
    """The library, initialised; one in a process, all calls but completions from its main thread.

    What is passed to the library stays allocated until the process ends: which strings it copies is
    not documented, and the process has one disk.
    """

    def __init__(self, file: LibraryFile, log: Log) -> None:
        """OSError if it cannot be loaded, VixError if it does not initialise."""
        self._lib: Any = ctypes.CDLL(str(file.path), mode=os.RTLD_NOW | os.RTLD_LOCAL)
        self._functions: dict[str, Any] = {}
        for name, signature in abi.SIGNATURES.items():
            self._bind(name, signature)
        for name, signature in abi.OPTIONAL.items():
            if hasattr(self._lib, _PREFIX + name):
                self._bind(name, signature)
        self._kept: list[Any] = [
            self._log_function(level, log) for level in ("debug", "info", "warning")
        ]
        self.check("InitEx", file.major, file.minor, *self._kept[:3], os.fsencode(file.home), None)

    def _bind(self, name: str, signature: tuple[Any, tuple[Any, ...]]) -> None:
        try:
            function = getattr(self._lib, _PREFIX + name)
        except AttributeError as exc:
            raise OSError(f"it has no {_PREFIX}{name}") from exc
        function.restype, function.argtypes = signature
        self._functions[name] = function

    @staticmethod
    def _log_function(level: str, log: Log) -> Any:
        def write(template: bytes | None, arguments: int | None) -> None:
            if template:
                log(level, formatted(template, arguments or 0))

        return abi.LOG_FUNCTION(write)

    def has(self, name: str) -> bool:
        """Whether this version has that function."""
        return name in self._functions

    def call(self, name: str, *arguments: Any) -> Any:
        return self._functions[name](*arguments)

    def check(self, name: str, *arguments: Any) -> None:
        """A call that returns an error or none; VixError."""
        error = int(self.call(name, *arguments))
        if error != abi.OK:
            raise VixError(name, error, self.error_text(error))

    def error_text(self, error: int) -> str:
        pointer = self.call("GetErrorText", error, None)
        if not pointer:
            return f"error {abi.error_number(error)}"
        words = (ctypes.string_at(pointer) or b"").decode("utf-8", "replace").strip().rstrip(".")
        self.call("FreeErrorText", pointer)
        return f"{words} ({abi.error_number(error)})"

    def params(self) -> Any:
        """A pointer to connection parameters, all zeros."""
        if self.has("AllocateConnectParams"):
            pointer = self.call("AllocateConnectParams")
            if not pointer:
                raise VixError("AllocateConnectParams", abi.NO_MEMORY, "no memory")
            return pointer
        memory = ctypes.create_string_buffer(ctypes.sizeof(abi.ConnectParams) + _SPARE)
        self._kept.append(memory)
        return ctypes.cast(memory, ctypes.POINTER(abi.ConnectParams))

    def keep(self, text: str | None) -> bytes | None:
        """*text* as a C string that stays where it is."""
        if text is None:
            return None
        kept = text.encode()
        self._kept.append(kept)
        return kept

    def capacity(self, handle: Any) -> int:
        """Sectors of an open disk."""
        info = ctypes.POINTER(abi.Info)()
        self.check("GetInfo", handle, ctypes.byref(info))
        try:
            return int(info.contents.capacity)
        finally:
            self.call("FreeInfo", info)

    def allocated(self, handle: Any, start: int, count: int, chunk: int) -> bytes:
        """Pairs of sectors, as they stand in memory: RANGE after RANGE."""
        found = ctypes.POINTER(abi.BlockList)()
        self.check("QueryAllocatedBlocks", handle, start, count, chunk, ctypes.byref(found))
        try:
            blocks = int(found.contents.numBlocks)
            first = ctypes.addressof(found.contents) + abi.BlockList.blocks.offset
            return ctypes.string_at(first, blocks * frame.RANGE.size)
        finally:
            self.check("FreeBlockList", found)
